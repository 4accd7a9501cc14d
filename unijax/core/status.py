"""The status file of a run: where it stands, for people and programs that did not start it.

`status.json` in the run directory is one JSON object, the fields of `Status`. It is replaced whole,
so that a reader never sees half of it.
"""

import dataclasses
import json
import os
import pathlib
from typing import Any

from unijax.core.errors import UserError
from unijax.core.files import write_file
from unijax.core.json_files import read_object, shown

FILE = "status.json"
STATES = ("starting", "running", "stopped", "done", "preempted", "failed")


@dataclasses.dataclass(frozen=True)
class Status:
    """One run at one moment.

    Attributes:
      run: name of the run directory.
      state: one of `STATES`. "starting" reads data and compiles; "stopped" was asked to end before
        the last step; "preempted" has saved and waits to be started again. A run that was killed
        is left as it last was: `updated` tells.
      step: optimizer steps taken, as last reported.
      steps: of the whole stage.
      loss: as last reported.
      tokens_per_second: likewise, padding not counted.
      updated: when this was written, seconds since 1970.
      host: of process 0.
      attempt: 1, 2, ...: how often the run was started.
      job: id that the engine gave it; "" without an engine.
      message: of a failure.
      seconds: of all attempts so far, from when the command began to read data.
      goodput: share of `seconds` in steps that changed the parameters and were not undone.
      mfu: model FLOPs (by the pairs that attention sees) as a share of the devices' peak.
      step_seconds: percentiles of the newest 1,000 steps: {"p50": ..., "p90": ..., "p99": ...}.
      memory_gib: most that was in use: of one device, or of the host where devices do not tell.
    """

    run: str
    state: str
    step: int
    steps: int
    loss: float | None
    tokens_per_second: float | None
    updated: float
    host: str
    attempt: int
    job: str
    message: str = ""
    seconds: float = 0.0
    goodput: float | None = None
    mfu: float | None = None
    step_seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    memory_gib: float | None = None


def write(run_dir: str | os.PathLike, status: Status) -> None:
    """Replaces the status file.

    Raises:
      UserError: if the place cannot be written.
    """
    assert status.state in STATES, status.state
    text = json.dumps(dataclasses.asdict(status)) + "\n"
    write_file(pathlib.Path(run_dir) / FILE, text, lasting=False)


def read(run_dir: str | os.PathLike) -> Status | None:
    """The status of a run, or None where none was ever written.

    Raises:
      UserError: if the file is no status file.
    """
    path = pathlib.Path(run_dir) / FILE
    if not path.exists():
        return None
    try:
        return _checked(Status(**read_object(path, _MOST_BYTES)))
    except (ValueError, TypeError) as e:
        said = e.found if isinstance(e, UserError) else str(e)
        found = f"what is no status ({shown(said)})"
        raise UserError(str(path), found, "the fields of a run's status", "Remove it.") from e


_MOST_BYTES = 2**20
_LARGEST = 2**63
_KINDS = {float: int | float, float | None: int | float | None, dict[str, float]: dict}


def _checked(status: Status) -> Status:
    """Raises TypeError for a field of another type, ValueError for a number that none could be."""
    for field in dataclasses.fields(Status):
        value = getattr(status, field.name)
        if not isinstance(value, _KINDS.get(field.type, field.type)) or isinstance(value, bool):
            raise TypeError(f"{field.name} is {shown(value)}")
        _check_number(field.name, value)
    if status.state not in STATES:
        raise ValueError(f"state is {shown(status.state)}")
    for name, seconds in status.step_seconds.items():
        if not isinstance(seconds, int | float):
            raise TypeError(f"step_seconds is {shown(status.step_seconds)}")
        _check_number(name, seconds)
    return status


def _check_number(name: str, value: Any) -> None:
    """Losses may be infinite or none; whole numbers of hundreds of digits are no count."""
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise ValueError(f"{name} is {shown(value)}")

"""The status file of a run: where it stands, for people and programs that did not start it.

`status.json` in the run directory is one JSON object, the fields of `Status`. It is replaced whole,
so that a reader never sees half of it.
"""

import dataclasses
import json
import os
import pathlib

from unijax.core.errors import UserError
from unijax.core.files import atomic_file

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
    with atomic_file(pathlib.Path(run_dir) / FILE) as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(status)) + "\n")


def read(run_dir: str | os.PathLike) -> Status | None:
    """The status of a run, or None where none was ever written.

    Raises:
      UserError: if the file is no status file.
    """
    path = pathlib.Path(run_dir) / FILE
    try:
        return _checked(Status(**json.loads(path.read_text())))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, OSError) as e:
        raise UserError(
            str(path), f"what is no status ({e})", "the fields of a run's status", "Remove it."
        ) from e


_KINDS = {float: int | float, float | None: int | float | None, dict[str, float]: dict}


def _checked(status: Status) -> Status:
    """Raises TypeError for a field of another type."""
    for field in dataclasses.fields(Status):
        value = getattr(status, field.name)
        if not isinstance(value, _KINDS.get(field.type, field.type)):
            raise TypeError(f"{field.name} is {value!r}")
    if not all(isinstance(seconds, int | float) for seconds in status.step_seconds.values()):
        raise TypeError(f"step_seconds is {status.step_seconds!r}")
    return status

"""Keeps the status file of a run (`core.status`) as it goes."""

import contextlib
import pathlib
import socket
import threading
import time
from collections.abc import Mapping

from unijax.core import status as status_lib
from unijax.core.errors import Interrupted, Preempted, UserError
from unijax.core.processes import is_lead, job_id
from unijax.core.status import Status
from unijax.train.writers import Writer

_SECONDS = 1.0  # between two writes of a run that goes on
_REPORTED = ("loss", "tokens_per_second", "goodput", "mfu", "step_seconds", "memory_gib")
_ALIVE_SECONDS = 30.0  # between two writes of one that has nothing new to tell: it may be killed


class StatusKeeper(Writer):
    """A writer (`train.writers`) of the newest loss and speed. Leaving it tells how the run ended.

    Only process 0 writes. A disk that cannot be written stops the run elsewhere, not here.
    """

    def __init__(self, run_dir: pathlib.Path, steps: int):
        """`steps` is the number of steps of the whole stage."""
        self._dir, self._lead, self._written = run_dir, is_lead(), 0.0
        before = self._earlier = _earlier(run_dir) if self._lead else None
        self._began = time.monotonic()
        self._before = before.seconds if before else 0.0
        self._writing, self._over = threading.Lock(), threading.Event()
        self._alive = threading.Thread(target=self._tell_alive, name="status", daemon=True)
        self._now = {
            "run": run_dir.absolute().name,
            "state": "starting",
            "step": before.step if before else 0,
            "steps": steps,
            "loss": None,
            "tokens_per_second": None,
            # As last reported, until there is something newer: a run that is done stays as it was.
            **{name: getattr(before, name) for name in _REPORTED if before},
            "host": socket.gethostname(),
            "attempt": before.attempt + 1 if before else 1,
            "job": job_id(),
            "message": "",
        }

    def __enter__(self) -> "StatusKeeper":
        self._write()
        self._alive.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        self._over.set()
        self._alive.join()
        if isinstance(error, Preempted):
            state = "stopped" if isinstance(error, Interrupted) else "preempted"
            self._now |= {"state": state, "step": error.step}
        elif self._now["state"] == "starting" and self._was_done():
            # What came to no step leaves a finished run as it was.
            self._now |= {"state": "done", "steps": self._earlier.steps}
        elif kind is KeyboardInterrupt:
            self._now["state"] = "stopped"
        elif error is not None:
            self._now |= {"state": "failed", "message": str(error) or kind.__name__}
        self._write()

    def _was_done(self) -> bool:
        return self._earlier is not None and self._earlier.state == "done"

    def finish(self, step: int) -> None:
        """Training returned at this step."""
        state = "done" if step == self._now["steps"] else "stopped"
        self._now |= {"state": state, "step": step}

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        if "machine/useful_seconds" not in values:  # of an evaluation
            return
        begins = self._now["state"] != "running"
        self._now |= {"state": "running", "step": step}
        if "loss" in values:  # none where no step of the period was applied
            self._now["loss"] = values["loss"]
        self._now["tokens_per_second"] = values.get("tokens_per_second")
        self._now["mfu"] = values.get("machine/mfu")
        host = values.get("machine/host_memory_gib")
        self._now["memory_gib"] = values.get("machine/device_memory_gib", host)
        self._now["goodput"] = values["machine/useful_seconds"] / self._seconds()
        prefix = "seconds_per_step_"
        percentiles = {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
        self._now["step_seconds"] = percentiles
        if begins or time.time() - self._written > _SECONDS:
            self._write()

    def _write(self) -> None:
        if not self._lead:
            return
        with self._writing, contextlib.suppress(UserError):
            self._written = time.time()
            now = Status(updated=self._written, seconds=self._seconds(), **self._now)
            status_lib.write(self._dir, now)

    def _tell_alive(self) -> None:
        """The time of a run that compiles or evaluates counts, though it be killed there."""
        while not self._over.wait(_ALIVE_SECONDS):
            self._write()

    def _seconds(self) -> float:
        return self._before + time.monotonic() - self._began


def _earlier(run_dir: pathlib.Path) -> Status | None:
    """Of the attempt before. A file that a machine's end left empty stops no run."""
    try:
        return status_lib.read(run_dir)
    except UserError:
        return None

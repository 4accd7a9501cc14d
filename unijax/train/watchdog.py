"""Notices a run that does not go on, on any of its hosts, and ends it so that it is started again.

Where one host hangs the others soon wait for it. Each says where it stands, so the host that is to
blame is the one whose main thread does not wait for a device or for a peer.
"""

import faulthandler
import os
import pathlib
import sys
import threading
import time

import jax
import numpy as np

from unijax.core import exit_codes
from unijax.core.files import atomic_file
from unijax.core.processes import of_the_lead

_TICK = 1.0  # seconds
# So long it may take the others of a run to see that one fires, and any to write its stacks: the
# disk may be what hangs.
_TO_HEAR, _TO_WRITE = 5.0, 10.0


class Watchdog:
    """Between entering and leaving, ends the process if `beat` is not called for so long.

    Before that the stacks of all threads go to stderr and to `hang-<process>.txt` in the run
    directory, those of all processes, though the one that fires first may only wait for the one
    that hangs. The exit status is `exit_codes.HUNG`. Time in which the whole process stood still
    (SIGSTOP, a laptop asleep) does not count.
    """

    def __init__(self, run_dir: pathlib.Path, seconds: float):
        """0 seconds is no watchdog. To be called by all processes of a run."""
        self._path = run_dir / f"hang-{jax.process_index()}.txt"
        mark = int(of_the_lead(np.asarray(time.time_ns() % 2**31, np.int32)))
        self._alarm = run_dir / f".hang.{mark:08x}"  # its being there tells the others
        self._several, self._heard = jax.process_count() > 1, False
        self._seconds, self._waited, self._doing = seconds, 0.0, "starting"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()

    def beat(self, doing: str) -> None:
        """The run goes on; it now does what these words say."""
        self._doing, self._waited = doing, 0.0

    def _watch(self) -> None:
        tick = min(_TICK, self._seconds / 4)
        while not self._over.wait(tick):
            self._waited += tick
            self._heard = self._several and self._alarm.exists()
            if self._heard or self._waited >= self._seconds:
                self._end()

    def _end(self) -> None:
        what = f"has not gone on for {self._seconds:g} s while {self._doing}"
        if self._heard:
            what = f"was {self._doing} when another had not gone on for {self._seconds:g} s"
        said = f"process {jax.process_index()} {what}; its threads:\n"
        try:
            writing = threading.Thread(target=self._write, args=(said,), daemon=True)
            writing.start()
            self._dump(said, sys.__stderr__)
            writing.join(_TO_WRITE)
            if self._several:  # the first that ends takes the others with it
                time.sleep(_TO_HEAR)
        finally:  # also on a full disk
            os._exit(exit_codes.HUNG)

    def _write(self, said: str) -> None:
        if self._several:
            self._alarm.touch()
        with atomic_file(self._path) as temporary, temporary.open("w") as file:
            self._dump(said, file)

    def _dump(self, said: str, file) -> None:
        file.write(said)
        file.flush()
        faulthandler.dump_traceback(file, all_threads=True)

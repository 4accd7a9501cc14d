"""Notices a run that does not go on, on any of its hosts, and ends it so that it is started again.

Where one host hangs the others soon wait for it. Each says where it stands, so the host that is to
blame is the one whose main thread does not wait for a device or for a peer.
"""

import faulthandler
import os
import pathlib
import sys
import threading

import jax

from unijax.core import exit_codes

_TICK = 1.0  # seconds


class Watchdog:
    """Between entering and leaving, ends the process if `beat` is not called for so long.

    Before that the stacks of all threads go to stderr and to `hang-<process>.txt` in the run
    directory. The exit status is `exit_codes.HUNG`. Time in which the whole process stood still
    (SIGSTOP, a laptop asleep) does not count.
    """

    def __init__(self, run_dir: pathlib.Path, seconds: float):
        """0 seconds is no watchdog."""
        self._path = run_dir / f"hang-{jax.process_index()}.txt"
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
            if self._waited >= self._seconds:
                self._end()

    def _end(self) -> None:
        said = (
            f"process {jax.process_index()} has not gone on for {self._seconds:g} s while "
            f"{self._doing}; its threads:\n"
        )
        try:
            with self._path.open("w") as file:
                self._dump(said, file)
            self._dump(said, sys.__stderr__)
        finally:  # also on a full disk
            os._exit(exit_codes.HUNG)

    def _dump(self, said: str, file) -> None:
        file.write(said)
        file.flush()
        faulthandler.dump_traceback(file, all_threads=True)

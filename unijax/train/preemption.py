"""Noticing that the run is asked to end: SIGTERM, which schedulers send first, or Ctrl-C."""

import atexit
import contextlib
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

from unijax.core.errors import Interrupted, Preempted
from unijax.core.exit_codes import INTERRUPTED

_SAVING = b"\nending: this step is finished and saved first. Once more ends at once\n"


@contextlib.contextmanager
def at_once(saved: Callable[[], int]) -> Iterator[None]:
    """While a run is made ready, SIGTERM is `Preempted`: there is no step to finish.

    Only of one process, and where nobody else caught it. `saved` tells the newest saved step.
    """

    def tell(number: int, frame: types.FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # again and again is told as one
        raise Preempted(saved())

    in_main = threading.current_thread() is threading.main_thread()
    alone = jax.process_count() == 1
    if not (in_main and alone and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL):
        yield
        return
    signal.signal(signal.SIGTERM, tell)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is tell:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Preemption:
    """Between entering and leaving, SIGTERM and SIGINT do not end the process: `reached` tells.

    A second SIGINT does, at once. Left with `Preempted` it goes on so: who asks again must not cut
    off what is told at the end.

    With one process the signals are caught here. With several, JAX's preemption service catches
    SIGTERM from `jax.distributed.initialize` on, whichever of them gets it, and names one moment
    that all reach, so that all save the same; SIGINT is handed on to it.
    """

    def __init__(self):
        self._told, self._asked = False, 0
        self._interrupted = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Preemption":
        # Python lets only the main thread catch signals.
        if threading.current_thread() is threading.main_thread():
            if jax.process_count() == 1:
                self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._tell)
            # A shell's background job does not hear it, and is to stay so.
            if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
                self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, kind: type | None, *error: object) -> None:
        if kind is not None and issubclass(kind, Preempted):
            if signal.SIGTERM in self._before:
                # Python gives up its own handlers before its process is over.
                atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)
            if not self._interrupted and signal.SIGINT in self._before:
                signal.signal(signal.SIGINT, self._before[signal.SIGINT])
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _tell(self, number: int, frame: types.FrameType | None) -> None:
        self._told = True

    def _interrupt(self, number: int, frame: types.FrameType | None) -> None:
        if self._interrupted:
            os._exit(INTERRUPTED)
        self._interrupted = True
        os.write(sys.__stderr__.fileno(), _SAVING)
        if jax.process_count() == 1:
            self._told = True
        else:
            signal.raise_signal(signal.SIGTERM)

    def reached(self) -> bool:
        """Whether the run should end. To be asked before every step, by every process."""
        if jax.process_count() > 1:
            self._asked += 1  # not the step, which may go back
            self._told |= multihost_utils.reached_preemption_sync_point(self._asked)
        return self._told

    def ended(self, step: int) -> Preempted:
        """What says so, when all of a step is saved."""
        return Interrupted(step) if self._interrupted else Preempted(step)

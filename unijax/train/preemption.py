"""Noticing that the run is asked to end: SIGTERM, which schedulers send ahead of the end."""

import atexit
import signal
import threading
import types

import jax
from jax.experimental import multihost_utils

from unijax.core.errors import Preempted


class Preemption:
    """Between entering and leaving, SIGTERM does not end the process: `reached` tells of it.

    Left with `Preempted` it goes on so: who asks again must not cut off what is told at the end.

    With one process the signal is caught here. With several, JAX's preemption service catches it
    from `jax.distributed.initialize` on, whichever of them gets it, and names one moment that all
    reach, so that all save the same.
    """

    def __init__(self):
        self._told, self._asked = False, 0
        self._before = None

    def __enter__(self) -> "Preemption":
        # Python lets only the main thread catch signals.
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._tell)
        return self

    def __exit__(self, kind: type | None, *error: object) -> None:
        if self._before is None:
            return
        if kind is not None and issubclass(kind, Preempted):
            # Python gives up its own handlers before its process is over.
            atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)
        else:
            signal.signal(signal.SIGTERM, self._before)

    def _tell(self, number: int, frame: types.FrameType | None) -> None:
        self._told = True

    def reached(self) -> bool:
        """Whether the run should end. To be asked before every step, by every process."""
        if jax.process_count() > 1:
            self._asked += 1  # not the step, which may go back
            self._told |= multihost_utils.reached_preemption_sync_point(self._asked)
        return self._told

"""Ctrl-C: what is being written is ended by the first one, all at once by the second.

While a run trains, `train.preemption` hears the first one, and saves.
"""

import contextlib
import os
import signal
import sys
import threading
import types
from collections.abc import Iterator

from unijax.core.exit_codes import INTERRUPTED

_SOON = 0.05  # seconds, till Python has left where it lost an interrupt
_lost = threading.Event()  # the one that was told came to nobody


@contextlib.contextmanager
def told() -> Iterator[None]:
    """While inside: SIGINT is a KeyboardInterrupt once, and never a traceback."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    was_told = False

    def tell(number: int, frame: types.FrameType | None) -> None:
        nonlocal was_told
        if was_told and not _lost.is_set():
            os.write(sys.stderr.fileno(), b"interrupted\n")
            os._exit(INTERRUPTED)
        was_told = True
        _lost.clear()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, tell)
    try:
        yield
    finally:
        if not was_told:  # else what ends now may be interrupted still: threads that write
            signal.signal(signal.SIGINT, signal.default_int_handler)


def again() -> None:
    """Tells an interrupt anew that Python dropped: in a callback of its garbage collector, say,
    whose exceptions are ignored."""

    def tell() -> None:
        _lost.set()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # it may wait in a call

    threading.Timer(_SOON, tell).start()


def leave(status: int) -> None:
    """Ends an interrupted process here: Python's own end crashes where JAX's threads still work."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

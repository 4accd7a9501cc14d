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
        if was_told:
            os._exit(INTERRUPTED)
        was_told = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, tell)
    try:
        yield
    finally:
        if not was_told:  # else what ends now may be interrupted still: threads that write
            signal.signal(signal.SIGINT, signal.default_int_handler)


def leave(status: int) -> None:
    """Ends an interrupted process here: Python's own end crashes where JAX's threads still work."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

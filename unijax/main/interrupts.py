"""Ctrl-C, once and again: what is being written is ended by the first, all at once by the third."""

import contextlib
import os
import signal
import sys
import threading
import types
from collections.abc import Iterator

from unijax.core.exit_codes import INTERRUPTED

_MORE = b"\nending; what is being saved is written first. Once more ends at once\n"


@contextlib.contextmanager
def told() -> Iterator[None]:
    """While inside: SIGINT is a KeyboardInterrupt once, and never a traceback."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    count = 0

    def tell(number: int, frame: types.FrameType | None) -> None:
        nonlocal count
        count += 1
        if count == 1:
            raise KeyboardInterrupt
        os.write(sys.__stderr__.fileno(), _MORE)
        if count > 2:
            os._exit(INTERRUPTED)

    signal.signal(signal.SIGINT, tell)
    try:
        yield
    finally:
        if count == 0:  # else what ends now may be interrupted still: threads that write
            signal.signal(signal.SIGINT, signal.default_int_handler)

"""Memory that the C library keeps of what was freed: some of it goes back to the machine."""

import contextlib
import ctypes
import os

_M_ARENA_MAX = -8  # of <malloc.h>
_ARENAS = 2
_CHOSEN = ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")  # by who runs the process


def use_few_arenas() -> None:
    """Of glibc: threads that come from now on share two arenas.

    It gives every thread one of its own, up to eight a core, and each keeps pieces of what passed
    through it. Writers of checkpoints are ever new threads: in 300 saves of a small model memory
    grew by 10 to 15 MB, even where what was free was given back. Arenas that are there already
    stay: it is for the first line of a process.
    """
    if any(name in os.environ for name in _CHOSEN):
        return
    with contextlib.suppress(OSError, AttributeError):  # of a C library that has no such call
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)


def give_back() -> None:
    """What is free goes back: malloc would keep it, in ever more pieces."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)

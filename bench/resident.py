"""Resident memory of this process, as Linux counts it."""

import gc
import pathlib
from collections.abc import Callable

from unijax.core.heap import give_back

_PROC = pathlib.Path("/proc/self")


def resident() -> int:
    """Bytes, after what is free was given back."""
    gc.collect()
    give_back()
    return _status("VmRSS")


def peak_of(call: Callable[[], object]) -> int:
    """The most bytes while it runs."""
    resident()
    (_PROC / "clear_refs").write_text("5")  # the peak begins anew
    call()
    return _status("VmHWM")


def _status(name: str) -> int:
    lines = (_PROC / "status").read_text().splitlines()
    (found,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return int(found) * 1024

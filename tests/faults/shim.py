"""The library of shim.c: builds it, starts Python with it, and arms it."""

import ctypes
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pytest

CALLS = (
    "open", "read", "write", "fsync", "close", "mkdir", "rename", "unlink", "rmdir", "link", "stat",
    "opendir", "utime",
)  # fmt: skip


def build() -> pathlib.Path:
    """The library, compiled once; skips the test where there is no compiler for it."""
    source = pathlib.Path(__file__).with_name("shim.c")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("errors of calls are injected by a C library, on Linux")
    library = pathlib.Path(tempfile.gettempdir()) / f"unijax-shim-{os.getuid()}.so"
    if not library.exists() or library.stat().st_mtime < source.stat().st_mtime:
        made = library.with_suffix(f".{os.getpid()}")
        command = [compiler, "-shared", "-fPIC", "-O1", "-w", "-o", str(made), str(source)]
        subprocess.run([*command, "-ldl", "-lpthread"], check=True)
        os.replace(made, library)
    return library


def start(*arguments: str, **environment: str) -> subprocess.Popen:
    """Python with the library. Its output is text, both streams together."""
    more = {"LD_PRELOAD": str(build()), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", **environment}
    return subprocess.Popen(
        [sys.executable, *arguments], env=os.environ | more, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def arm(folder: os.PathLike, call: str, nth: int, error: int, times: int = 1) -> None:
    """In a process with the library: the nth such call on what is under the folder fails.

    Args:
      nth: from 1; 0 counts alone.
      error: an errno; 0 is SIGKILL.
      times: calls that fail from there on; 0: all.
    """
    library = ctypes.CDLL(None)
    library.fault_arm(
        os.fsencode(folder), call.encode(), ctypes.c_long(nth), error, ctypes.c_long(times)
    )


def seen() -> int:
    """Such calls since the library was armed."""
    count = ctypes.CDLL(None).fault_seen
    count.restype = ctypes.c_long
    return count()


def failed() -> int:
    """Those of them that were made to fail."""
    count = ctypes.CDLL(None).fault_failed
    count.restype = ctypes.c_long
    return count()

"""Tests of several devices: a module in a process of its own, whose CPU is that many devices."""

import os
import subprocess
import sys


def run(module: str, *arguments: str, devices: int = 8, fast: bool = True) -> str:
    """What `python -m module` printed. It must end well.

    Args:
      fast: compile without optimisation, where compiling is most of the time.
    """
    flags = f"--xla_force_host_platform_device_count={devices}"
    flags += " --xla_backend_optimization_level=0" * fast
    ended = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout.strip()

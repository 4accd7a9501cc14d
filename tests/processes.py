"""Several processes of one run on this machine, joined by `jax.distributed`."""

import os
import socket
import subprocess
import sys
import time


def start(processes: int, module: str, *arguments: str, devices: int = 2) -> list[subprocess.Popen]:
    """`python -m module`, so many times; they share so many devices of the CPU."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices // processes}",
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
    }
    if processes > 1:
        environment |= {
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(processes),
        }  # fmt: skip
    command = [sys.executable, "-m", module, *arguments]
    return [
        subprocess.Popen(command, env=environment | {"JAX_PROCESS_ID": str(i)})
        for i in range(processes)
    ]


def ended(running: list[subprocess.Popen], seconds: float = 300) -> list[int]:
    """Their exit statuses. Whatever still runs after so long is killed, and the wait fails."""
    end = time.monotonic() + seconds
    try:
        return [process.wait(max(end - time.monotonic(), 0.1)) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()


def run(processes: int, module: str, *arguments: str) -> list[int]:
    """Starts them and waits for their exit statuses."""
    return ended(start(processes, module, *arguments))

"""Joining the processes of one run, and leaving so that the others notice."""

import os
import re
import sys
from typing import NoReturn

import jax

from unijax.core.errors import UserError
from unijax.core.exit_codes import CHECK_FAILED, DEVICE_LOST, PEER_LOST
from unijax.core.processes import wait_for_all

_GIVEN = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# A process that failed alone does not come to the common end: the others wait for it so long.
_SHUTDOWN_SECONDS = 60
# What JAX says where an accelerator failed, where it could not reach another process, and of a
# program that is wrong or too large, whatever else the message holds.
_BROKEN = re.compile(
    "uncorrectable|DATA_LOSS|fallen off the bus|DEVICE_UNAVAILABLE|CUDA_ERROR_UNKNOWN",
    re.IGNORECASE,
)
_LOST = re.compile(
    "gloo|nccl|socket|connection|coordination|heartbeat|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED",
    re.IGNORECASE,
)
_BUG = re.compile("INVALID_ARGUMENT|RESOURCE_EXHAUSTED|UNIMPLEMENTED|NOT_FOUND|OUT_OF_RANGE")


def join() -> None:
    """`jax.distributed.initialize`, where this process is one of several; before JAX is used.

    It is one of several if `JAX_COORDINATOR_ADDRESS` is set (with `JAX_NUM_PROCESSES` and
    `JAX_PROCESS_ID`), if `srun` started it with others, if it runs on a TPU slice of several hosts
    under Kubernetes, or if `UNIJAX_DISTRIBUTED=1` says so (TPU virtual machines): in all but the
    first case JAX itself finds out with whom.

    Raises:
      UserError: for a part of the three variables, or values that are no numbers.
    """
    ends = {"shutdown_timeout_seconds": _SHUTDOWN_SECONDS}
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        address, count, index = _given()
        jax.distributed.initialize(
            address, count, index, cluster_detection_method="deactivate", **ends
        )
    elif _found():
        jax.distributed.initialize(**ends)
    # What cannot reach the others fails now. Processes on CPUs connect when they first compute
    # together, and wait for half a minute: later, one of them may still compile.
    if jax.distributed.is_initialized():
        wait_for_all("joined")


def _given() -> tuple[str, int, int]:
    values = {name: os.environ.get(name, "") for name in _GIVEN}
    address, count, index = values.values()
    if not (count.isdigit() and index.isdigit() and int(index) < int(count)):
        raise UserError(
            "environment",
            ", ".join(f"{name}={value!r}" for name, value in values.items()),
            "an address, the number of processes, and this one's number below it",
            "Set all three, or none for one process.",
        )
    return address, int(count), int(index)


def _found() -> bool:
    environment = os.environ
    by_srun = "SLURM_STEP_NODELIST" in environment and int(environment.get("SLURM_NTASKS", 1)) > 1
    tpu_hosts = environment.get("TPU_WORKER_HOSTNAMES", "").count(",") + 1
    tpu_slices = int(environment.get("MEGASCALE_NUM_SLICES") or 1)
    asked = environment.get("UNIJAX_DISTRIBUTED") == "1"
    return by_srun or asked or tpu_hosts * tpu_slices > 1


def is_one_of_several() -> bool:
    """Whether this process joined others."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def leave(status: int) -> NoReturn:
    """Ends the process at once: the others, who wait for its part, lose it instead of hanging."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def status_of(error: Exception) -> int:
    """The exit status for an error that is nobody's input.

    `DEVICE_LOST` where an accelerator failed, `PEER_LOST` where JAX could not reach another
    process, and `CHECK_FAILED`, Python's own, for all else.
    """
    said = str(error)
    if not isinstance(error, jax.errors.JaxRuntimeError) or _BUG.match(said):
        return CHECK_FAILED
    if _BROKEN.search(said):
        return DEVICE_LOST
    return PEER_LOST if _LOST.search(said) else CHECK_FAILED

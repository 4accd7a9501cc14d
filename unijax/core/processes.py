"""What several processes of one run do together. All of it is nothing where there is one."""

import os
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from unijax.core.errors import UserError


def is_lead() -> bool:
    """Whether this process writes what is written once: logs, tables, the tokenizer."""
    return jax.process_index() == 0


def wait_for_all(where: str) -> None:
    """Returns when every process has called it with the same name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def to_host(x: jax.Array | np.ndarray) -> np.ndarray:
    """The whole of an array, also of one whose parts lie on devices of several processes.

    All processes must call it then, and all of them get it.
    """
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return np.asarray(x)


def of_the_lead(x: np.ndarray) -> np.ndarray:
    """The lead's value, on every process."""
    if jax.process_count() == 1:
        return x
    return np.asarray(multihost_utils.broadcast_one_to_all(x))


def text_of_the_lead(make: Callable[[], str]) -> str:
    """What the lead makes, on every process; its UserError too, so that none waits for another."""
    error, made = None, b""
    if is_lead():
        try:
            made = make().encode()
        except UserError as e:
            error = e
    if not all_agree(error is None):
        raise error or UserError("process 0", "a mistake", "none", "It says which.")
    length = int(of_the_lead(np.asarray(len(made), np.int32)))
    padded = np.frombuffer(made.ljust(length), np.uint8)
    return of_the_lead(padded).tobytes().decode()


def all_agree(ok: bool) -> bool:
    """Whether every process says so."""
    if jax.process_count() == 1:
        return ok
    return bool(np.all(multihost_utils.process_allgather(np.asarray(ok))))


def job_id() -> str:
    """The id that an engine gave this run; "" where nothing did."""
    return os.environ.get("UNIJAX_JOB", "")

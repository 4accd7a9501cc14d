"""The time of a call on a device."""

import math
import time
from collections.abc import Callable
from typing import Any

import jax

BURST = 0.02  # seconds of calls that the clock is read around, at least


def seconds(
    call: Callable[[], Any], rounds: int, wait: Callable[[Any], Any] = jax.block_until_ready
) -> list[float]:
    """Seconds of a call, `rounds` times: each over as many calls as fill `BURST`, one at least.

    Calls are handed over without waiting, as a training loop does: the host's own time counts only
    where the device waits for it.

    Args:
      wait: for the last call's result, and so for all before it.
    """
    wait(call())
    began = time.perf_counter()
    wait(call())
    count = max(1, math.ceil(BURST / max(time.perf_counter() - began, 1e-6)))
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(count):
            last = call()
        wait(last)
        found.append((time.perf_counter() - began) / count)
    return found

"""Metrics on the device: sums and weights, added up without waiting, divided when reported."""

import jax
import jax.numpy as jnp

from unijax.core.system import Metrics


@jax.jit
def add(total: Metrics, new: Metrics) -> Metrics:
    """Sums of sums and of weights."""
    return jax.tree.map(jnp.add, total, new)


def quotients(total: Metrics) -> dict[str, float]:
    """Host values; a metric without weight is left out. Waits for the device."""
    host = jax.device_get(total)
    return {k: float(s) / float(w) for k, (s, w) in host.items() if float(w) > 0}

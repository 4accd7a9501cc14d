"""Metrics on the device: sums and weights, added up without waiting, divided when reported."""

import jax
import jax.numpy as jnp

from unijax.core.system import Metrics

APPLIED = "applied"  # 1 for a step that changed the parameters, 0 for one that was not finite
PART_NORM = "grad_norm_of/"  # gradient norms of the top-level groups of parameters


@jax.jit
def add(total: Metrics, new: Metrics) -> Metrics:
    """Sums of sums and of weights."""
    return jax.tree.map(jnp.add, total, new)


@jax.jit
def add_step(total: Metrics | None, new: Metrics) -> Metrics:
    """As `add`, of a training step; one that was not applied counts in `APPLIED` alone.

    Args:
      total: None before the first step of a period.
    """
    applied = new[APPLIED][0] > 0
    counted = jax.tree.map(lambda x: jnp.where(applied, x, 0), new) | {APPLIED: new[APPLIED]}
    return counted if total is None else jax.tree.map(jnp.add, total, counted)


def quotients(total: Metrics) -> dict[str, float]:
    """Host values; a metric without weight is left out. Waits for the device."""
    host = jax.device_get(total)
    return {k: float(s) / float(w) for k, (s, w) in host.items() if float(w) > 0}

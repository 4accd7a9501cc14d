"""What blocked attention does to a score: the cap, and the numbers that stand for no score."""

import jax.numpy as jnp
from jax import Array

LOWEST = -1e30  # below every score; finite, so that the difference of two of them is a number
HIDDEN = -2e30  # so far below LOWEST that a hidden pair adds exp(HIDDEN - LOWEST) = 0 to anything


def capped(score: Array, cap: float | None) -> Array:
    """`cap * tanh(score / cap)`: scores kept within `(-cap, cap)` (Gemma 2, arXiv 2408.00118)."""
    return score if cap is None else cap * jnp.tanh(score * (1 / cap))


def capped_slope(capped_score: Array, cap: float | None) -> Array | float:
    """Derivative of `capped`, from its result."""
    return 1.0 if cap is None else 1.0 - jnp.square(capped_score * (1 / cap))

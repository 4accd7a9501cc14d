"""What the kernels do to make scores and to use them: products, the cap, stand-ins for no score."""

import jax
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


def dot(x: Array, y: Array, dim_x: int, dim_y: int) -> Array:
    """Product of two matrices over a dim of each, summed in float32."""
    # Said outright: matrix units have no other precision for bfloat16, and a default of the
    # caller's may ask for one.
    exact = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    return jax.lax.dot_general(
        x, y, (((dim_x,), (dim_y,)), ((), ())), precision=exact, preferred_element_type=jnp.float32
    )

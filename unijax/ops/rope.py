"""Rotary positions in the half-split layout of Hugging Face's Llama (arXiv 2104.09864).

Dimension `i` of a head is rotated with dimension `i + D / 2`, not with its neighbour: weights
stored for the interleaved layout (original Meta checkpoints, EVA-02) must be permuted first.
"""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int


def rope_tables(
    position: Int[Array, "B T"], head_dim: int, theta: float
) -> tuple[Float[Array, "B T half"], Float[Array, "B T half"]]:
    """Cosine and sine of `position * theta ** (-2 i / head_dim)`, float32."""
    half = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    angle = position.astype(jnp.float32)[..., None] / (theta**half)
    return jnp.cos(angle), jnp.sin(angle)


def apply_rope(
    x: Float[Array, "B T H D"], cos: Float[Array, "B T half"], sin: Float[Array, "B T half"]
) -> Float[Array, "B T H D"]:
    """Rotates every head, in float32, returned in the dtype of `x`."""
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[:, :, None], sin[:, :, None]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)

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


def grid_rope_tables(
    side: int, head_dim: int, theta: float, reference: int
) -> tuple[Float[Array, "N half"], Float[Array, "N half"]]:
    """Tables of the patches of a square picture in raster order, float32 (arXiv 2303.11331).

    Half of the pairs of a head turn with the row, then half with the column, each half with the
    frequencies that a head of half the width has. EVA-02 stores each pair as neighbours.

    Args:
      side: patches of the picture's side.
      reference: patches of the side of the pictures that were trained on: the places of any other
        grid are spread over as many.
    """
    frequency = theta ** (-jnp.arange(0, head_dim // 2, 2, dtype=jnp.float32) / (head_dim // 2))
    place = jnp.arange(side, dtype=jnp.float32) / side * reference
    angle = place[:, None] * frequency
    rows = jnp.repeat(angle, side, axis=0)
    angle = jnp.concatenate([rows, jnp.tile(angle, (side, 1))], axis=-1)
    return jnp.cos(angle), jnp.sin(angle)

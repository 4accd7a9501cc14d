"""Rotary positions in the half-split layout of Hugging Face's Llama (arXiv 2104.09864).

Dimension `i` of a head is rotated with dimension `i + D / 2`, not with its neighbour: weights
stored for the interleaved layout (original Meta checkpoints, EVA-02) must be permuted first.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Slower rotation for rows longer than those that the model began with (Llama 3.1's "llama3").

    What turns fewer than `low_freq_factor` times in the original length turns `factor` times
    slower, what turns more than `high_freq_factor` times as before; in between, a blend of both.
    Field names are those of transformers' `rope_parameters`.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def slower(self, head_dim: int, theta: float) -> np.ndarray:
        """How many times, for each of the `head_dim / 2` frequencies, float32."""
        radians = theta ** -(np.arange(0, head_dim, 2) / head_dim)
        turns = self.original_max_position_embeddings * radians / (2 * math.pi)
        kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        kept = np.clip(kept, 0, 1)
        return np.float32(1 / ((1 - kept) / self.factor + kept))


def rope_tables(
    position: Int[Array, "B T"] | Int[Array, "B T A"],
    head_dim: int,
    theta: float,
    scaling: RopeScaling | None = None,
    sections: tuple[int, ...] = (),
) -> tuple[Float[Array, "B T half"], Float[Array, "B T half"]]:
    """Cosine and sine of `position * theta ** (-2 i / head_dim)`, float32.

    Args:
      position: an index, or A of them (time, row and column of a patch, say).
      sections: with A indices, how many of the `head_dim / 2` frequencies, from the fastest on,
        turn with each (Qwen2-VL's M-RoPE, arXiv 2409.12191, section 2.1).
    """
    assert position.ndim == 2 or position.shape[2] == len(sections), (position.shape, sections)
    half = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    period = theta**half
    if scaling is not None:
        period = period * scaling.slower(head_dim, theta)
    position = position.astype(jnp.float32)
    if position.ndim == 2:
        position = position[..., None]
    else:
        position = position[..., np.repeat(np.arange(len(sections)), sections)]
    angle = position / period
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

"""Pixel ranges."""

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, UInt8

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def to_signed(
    pixels: UInt8[Array, "*batch 3"], dtype: DTypeLike = jnp.float32
) -> Float[Array, "*batch 3"]:
    """0..255 to [-1, 1]: what SigLIP and image tokenizers eat (mean = std = 0.5)."""
    return (pixels.astype(jnp.float32) / 127.5 - 1.0).astype(dtype)


def by_clip_statistics(signed: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3"]:
    """[-1, 1] to the mean 0 and deviation 1 of CLIP's data, by channel (arXiv 2103.00020)."""
    mean, std = np.float32(CLIP_MEAN), np.float32(CLIP_STD)
    unit = (signed.astype(jnp.float32) + 1.0) / 2.0
    return ((unit - mean) / std).astype(signed.dtype)


def to_bytes(pixels: Float[Array, "*batch 3"]) -> UInt8[Array, "*batch 3"]:
    """[-1, 1] to 0..255, clipped, as Janus shows pictures: `clip((x + 1) / 2 * 255, 0, 255)`."""
    scaled = (pixels.astype(jnp.float32) + 1.0) * 127.5
    return jnp.clip(scaled, 0, 255).astype(jnp.uint8)

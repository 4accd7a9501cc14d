"""Pixel ranges."""

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, UInt8


def to_signed(
    pixels: UInt8[Array, "*batch 3"], dtype: DTypeLike = jnp.float32
) -> Float[Array, "*batch 3"]:
    """0..255 to [-1, 1]: what both encoders eat (mean = std = 0.5)."""
    return (pixels.astype(jnp.float32) / 127.5 - 1.0).astype(dtype)


def to_bytes(pixels: Float[Array, "*batch 3"]) -> UInt8[Array, "*batch 3"]:
    """[-1, 1] to 0..255, clipped, as Janus shows pictures: `clip((x + 1) / 2 * 255, 0, 255)`."""
    scaled = (pixels.astype(jnp.float32) + 1.0) * 127.5
    return jnp.clip(scaled, 0, 255).astype(jnp.uint8)

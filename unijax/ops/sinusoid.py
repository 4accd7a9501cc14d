"""Sinusoids of a timestep (arXiv 1706.03762, section 3.5, for the timesteps of diffusion)."""

import math

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

LONGEST_PERIOD = 10_000


def sinusoid(
    timestep: Float[Array, "*batch"],
    width: int,
    flip_sin_to_cos: bool = True,
    freq_shift: float = 0.0,
) -> Float[Array, "*batch width"]:
    """Cosines, then sines, of `timestep * 10000 ** (-i / (half - freq_shift))`, float32.

    diffusers' `get_timestep_embedding`, whose flags these are. DiT and Stable Diffusion have these
    defaults, DDPM sines first and a shift of 1. An odd width ends in a zero.
    """
    half = width // 2
    exponent = -math.log(LONGEST_PERIOD) * jnp.arange(half, dtype=jnp.float32)
    angle = timestep.astype(jnp.float32)[..., None] * jnp.exp(exponent / (half - freq_shift))
    halves = [jnp.sin(angle), jnp.cos(angle)]
    x = jnp.concatenate(halves[::-1] if flip_sin_to_cos else halves, axis=-1)
    return jnp.pad(x, [(0, 0)] * timestep.ndim + [(0, width % 2)])

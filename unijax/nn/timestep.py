"""A timestep as a vector: sinusoids, then a linear layer, SiLU and another."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from unijax.nn.layers import Dense
from unijax.ops.sinusoid import sinusoid


class TimestepEmbedding(nn.Module):
    """Of each picture's timestep a vector of `features`; submodules are named as in diffusers."""

    features: int
    hidden: int
    axes: tuple[str, str, str]  # logical names of the sinusoids, of `hidden` and of `features`
    frequencies: int = 256  # width of the sinusoids
    flip_sin_to_cos: bool = True  # cosines first
    freq_shift: float = 0.0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, timestep: Float[Array, "*batch"]) -> Float[Array, "*batch d"]:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = sinusoid(timestep, self.frequencies, self.flip_sin_to_cos, self.freq_shift)
        x = Dense(self.hidden, self.axes[:2], name="linear_1", **kinds)(x)
        x = jax.nn.silu(x)
        return Dense(self.features, self.axes[1:], name="linear_2", **kinds)(x)

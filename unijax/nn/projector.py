"""Two-layer perceptrons between widths: adaptors into the decoder and the image head."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from unijax.core import axes
from unijax.nn.layers import Dense


class Projector(nn.Module):
    """Linear, exact GELU, Linear: Janus's `mlp_gelu` adaptor of depth 2 (`projector.py`)."""

    features: int
    in_axis: str = axes.VISION_EMBED  # logical name of the input's width
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d_in"]) -> Float[Array, "*batch d_out"]:
        kinds = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        x = Dense(self.features, (self.in_axis, axes.MLP), name="fc1", **kinds)(x)
        x = jax.nn.gelu(x, approximate=False)
        return Dense(self.features, (axes.MLP, axes.EMBED), name="hidden_layers_0", **kinds)(x)


class CodeHead(nn.Module):
    """Linear, exact GELU, Linear to the image codes: Janus's `gen_head` (`modeling_vlm.py`)."""

    hidden: int
    num_codes: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch K"]:
        kinds = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        x = Dense(self.hidden, (axes.EMBED, axes.MLP), name="proj_out", **kinds)(x)
        x = jax.nn.gelu(x, approximate=False)
        return Dense(self.num_codes, (axes.EMBED, axes.CODES), name="vision_head", **kinds)(x)

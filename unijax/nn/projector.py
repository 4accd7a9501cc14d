"""Two-layer perceptrons between widths: adaptors into the decoder, heads out of it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from unijax.core import axes
from unijax.nn.layers import Dense, LayerNorm

NORM_EPSILON = 1e-5


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


class VectorHead(nn.Module):
    """Linear, exact GELU, Linear to vectors: MetaMorph's `vision_head` of the kind `mlp`."""

    hidden: int
    features: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch F"]:
        kinds = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        x = Dense(self.hidden, (axes.EMBED, axes.MLP), name="fc1", **kinds)(x)
        x = jax.nn.gelu(x, approximate=False)
        return Dense(self.features, (axes.MLP, axes.VISION_EMBED), name="fc2", **kinds)(x)


class Condition(nn.Module):
    """Vectors as a diffusion model reads them: MetaMorph's projector of its visualiser.

    Linear, norm, ReLU, Linear, norm; then zeros up to `tokens` of them.
    """

    hidden: int
    features: int
    tokens: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B N d_in"]) -> Float[Array, "B M K"]:
        kinds = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        names = (axes.VISION_EMBED, axes.VISION_MLP)
        x = Dense(self.hidden, names, name="fc1", **kinds)(x)
        x = jax.nn.relu(LayerNorm(NORM_EPSILON, name="norm1", **kinds)(x))
        x = Dense(self.features, names[::-1], name="fc2", **kinds)(x)
        x = LayerNorm(NORM_EPSILON, name="norm2", **kinds)(x)
        return jnp.pad(x, ((0, 0), (0, self.tokens - x.shape[1]), (0, 0)))

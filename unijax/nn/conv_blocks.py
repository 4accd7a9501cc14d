"""The blocks of convolutional networks that descend from taming-transformers: image autoencoders,
and the U-Nets of latent diffusion.

Submodules are named as in their first releases, so that an export is a transposition.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from unijax.core import axes
from unijax.nn.layers import Conv, Dense, GroupNorm

NORM_GROUPS = 32  # of every group norm; channels must be a multiple
NORM_EPSILON = 1e-6
SAME_3X3 = ((1, 1), (1, 1))


class ResBlock(nn.Module):
    """norm, swish, 3x3, norm, swish, 3x3, added to the input (1x1-projected if channels change).

    A vector of the timestep, where there is one, is projected and added between the two.
    """

    features: int
    epsilon: float = NORM_EPSILON
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B height width c_in"], time: Float[Array, "B d"] | None = None
    ) -> Float[Array, "B height width c"]:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        h = jax.nn.silu(GroupNorm(NORM_GROUPS, self.epsilon, name="norm1", **kinds)(x))
        h = Conv(self.features, 3, padding=SAME_3X3, name="conv1", **kinds)(h)
        if time is not None:
            names = (axes.VISION_EMBED, axes.CONV_OUT)
            project = Dense(self.features, names, name="time_emb_proj", **kinds)
            h = h + project(jax.nn.silu(time))[:, None, None]
        h = jax.nn.silu(GroupNorm(NORM_GROUPS, self.epsilon, name="norm2", **kinds)(h))
        h = Conv(self.features, 3, padding=SAME_3X3, name="conv2", **kinds)(h)
        if x.shape[-1] != self.features:
            x = Conv(self.features, 1, name="nin_shortcut", **kinds)(x)
        return x + h


class SpatialAttention(nn.Module):
    """One head of full attention over the pixels, between 1x1 convolutions, added to the input.

    A convolutional network's own layer: its grid is small, so the square of logits is written out.
    """

    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B height width c"]) -> Float[Array, "B height width c"]:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        b, height, width, c = x.shape
        h = GroupNorm(NORM_GROUPS, NORM_EPSILON, name="norm", **kinds)(x)
        q, k, v = (
            Conv(c, 1, name=name, **kinds)(h).reshape(b, height * width, c) for name in "qkv"
        )
        logits = jnp.einsum("bqc,bkc->bqk", q, k, preferred_element_type=jnp.float32) * c**-0.5
        h = jnp.einsum("bqk,bkc->bqc", jax.nn.softmax(logits).astype(self.dtype), v)
        return x + Conv(c, 1, name="proj_out", **kinds)(h.reshape(x.shape))


class MidBlock(nn.Module):
    """ResBlock, attention, ResBlock."""

    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B height width c"]) -> Float[Array, "B height width c"]:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = ResBlock(x.shape[-1], name="block_1", **kinds)(x)
        x = SpatialAttention(name="attn_1", **kinds)(x)
        return ResBlock(x.shape[-1], name="block_2", **kinds)(x)


class Downsample(nn.Module):
    """3x3 convolution of stride 2.

    Autoencoders pad their input by one row below and one column right, U-Nets on all sides.
    """

    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 1), (0, 1))
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B height width c"]) -> Float[Array, "B h w c"]:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return Conv(x.shape[-1], 3, stride=2, padding=self.padding, name="conv", **kinds)(x)


class Upsample(nn.Module):
    """Every pixel becomes 2x2 equal ones, then a 3x3 convolution."""

    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B height width c"]) -> Float[Array, "B h w c"]:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        return Conv(x.shape[-1], 3, padding=SAME_3X3, name="conv", **kinds)(x)

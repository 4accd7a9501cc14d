"""Gated inverted bottleneck: the feed-forward layer of Sana and of DC-AE's transformer blocks.

arXiv 2410.10629, section 2.2 (Mix-FFN). Submodules are named as in diffusers' `GLUMBConv`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from unijax.core import axes
from unijax.nn.layers import Dense, DepthwiseConv, RMSNorm

NORM_EPSILON = 1e-5


class GLUMBConv(nn.Module):
    """1x1 to twice `hidden`, SiLU, depthwise 3x3, half gated by the other's SiLU, 1x1 back."""

    hidden: int
    norm: bool = False  # behind
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B height width c"]) -> Float[Array, "B height width c"]:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        into, out = (axes.VISION_EMBED, axes.VISION_MLP), (axes.VISION_MLP, axes.VISION_EMBED)
        h = jax.nn.silu(Dense(2 * self.hidden, into, name="conv_inverted", **kinds)(x))
        h, gate = jnp.split(DepthwiseConv(3, name="conv_depth", **kinds)(h), 2, axis=-1)
        h = h * jax.nn.silu(gate)
        h = Dense(x.shape[-1], out, use_bias=False, name="conv_point", **kinds)(h)
        if self.norm:
            h = RMSNorm(NORM_EPSILON, use_bias=True, name="norm", **kinds)(h)
        return h

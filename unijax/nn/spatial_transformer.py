"""The transformer blocks that diffusion networks have over the positions of a picture.

Submodules are named as in diffusers.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from unijax.core import axes
from unijax.nn.conv_blocks import NORM_GROUPS
from unijax.nn.layers import Conv, Dense, GroupNorm, LayerNorm
from unijax.ops.attention import attention, full_intervals
from unijax.ops.linear_attention import linear_attention

NORM_EPSILON = 1e-6
LAYER_NORM_EPSILON = 1e-5

Context = Float[Array, "B M K"] | None


class SpatialTransformer(nn.Module):
    """A transformer block over the positions of a picture, between 1x1 convolutions, added to it.

    Self-attention, attention to the context if there is one, a gated MLP; each after a layer norm.
    """

    num_heads: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B height width c"], context: Context
    ) -> Float[Array, "B height width c"]:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        c = x.shape[-1]
        h = GroupNorm(NORM_GROUPS, NORM_EPSILON, name="norm", **kinds)(x)
        h = Conv(c, 1, name="proj_in", **kinds)(h).reshape(x.shape[0], -1, c)
        h = TransformerBlock(self.num_heads, name="transformer_blocks_0", **kinds)(h, context)
        return x + Conv(c, 1, name="proj_out", **kinds)(h.reshape(x.shape))


class TransformerBlock(nn.Module):
    num_heads: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B N c"], context: Context) -> Float[Array, "B N c"]:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        h = LayerNorm(LAYER_NORM_EPSILON, name="norm1", **kinds)(x)
        x = x + Attention(self.num_heads, name="attn1", **kinds)(h, h)
        if context is not None:
            h = LayerNorm(LAYER_NORM_EPSILON, name="norm2", **kinds)(x)
            x = x + Attention(self.num_heads, name="attn2", **kinds)(h, context)
        h = LayerNorm(LAYER_NORM_EPSILON, name="norm3", **kinds)(x)
        return x + GatedMLP(name="ff", **kinds)(h)


class Attention(nn.Module):
    """Multi-head attention to all of a memory, with a softmax or linear in the positions."""

    num_heads: int
    qkv_bias: bool = False
    linear: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N c"], memory: Float[Array, "B M K"]
    ) -> Float[Array, "B N c"]:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        b, n, c = x.shape

        def heads(name, y):
            names = (axes.VISION_EMBED, axes.VISION_HEADS)
            y = Dense(c, names, use_bias=self.qkv_bias, name=name, **kinds)(y)
            return y.reshape(b, y.shape[1], self.num_heads, -1)

        q, k, v = heads("to_q", x), heads("to_k", memory), heads("to_v", memory)
        if self.linear:
            y = linear_attention(q, k, v)
        else:
            y = attention(q, k, v, *full_intervals(b, n, memory.shape[1]))
        names = (axes.VISION_HEADS, axes.VISION_EMBED)
        return Dense(c, names, name="to_out_0", **kinds)(y.reshape(b, n, c))


class GatedMLP(nn.Module):
    """Four times as wide within, half of it gated by the GELU (erf) of the other half."""

    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B N c"]) -> Float[Array, "B N c"]:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        c = x.shape[-1]
        h = Dense(8 * c, (axes.VISION_EMBED, axes.VISION_MLP), name="net_0_proj", **kinds)(x)
        h, gate = jnp.split(h, 2, axis=-1)
        h = h * jax.nn.gelu(gate, approximate=False)
        return Dense(c, (axes.VISION_MLP, axes.VISION_EMBED), name="net_2", **kinds)(h)


def spatial_transformer_flops(c: int, n: int, context_dim: int, context_tokens: int) -> int:
    """Of a `SpatialTransformer` over `n` positions; 2 per multiply-add."""
    of_self = 2 * n * 4 * c * c + 4 * n * n * c
    of_context = 2 * n * 2 * c * c + 2 * context_tokens * 2 * context_dim * c
    of_context = of_context + 4 * n * context_tokens * c if context_dim else 0
    return of_self + of_context + 2 * n * 12 * c * c + 2 * n * 2 * c * c

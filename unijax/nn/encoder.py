"""The transformer encoder of vision and text towers: pre-norm blocks with biases, GELU, LayerNorm.

Parameters are named as in transformers' Janus (`projection_layer` is `out_proj` elsewhere).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from unijax.core import axes
from unijax.core.mesh import POSITIONS, ROWS, WHOLE, lay
from unijax.nn.layers import Dense, LayerNorm
from unijax.nn.stack import stack
from unijax.ops.attention import attention

ACTIVATIONS = {"gelu": False, "gelu_tanh": True}  # name -> tanh approximation

Intervals = tuple[Int[Array, "B N"], Int[Array, "B N"]]


class Encoder(nn.Module):
    """A stack of equal blocks.

    Attributes:
      num_layers: blocks.
      hidden: width of the MLP.
      remat: "none", "dots" or "full" (`nn.stack`).
    """

    num_layers: int
    hidden: int
    num_heads: int
    epsilon: float
    hidden_act: str
    remat: str = "none"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"], intervals: Intervals) -> Float[Array, "B N D"]:
        """`intervals` are the keys that each position sees (`ops.attention`)."""
        layers = stack(
            Layer,
            self.num_layers,
            self.remat,
            "layers",
            hidden=self.hidden,
            num_heads=self.num_heads,
            epsilon=self.epsilon,
            hidden_act=self.hidden_act,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        return layers(x, None, intervals)[0]


class Layer(nn.Module):
    """Pre-norm transformer block with biases everywhere."""

    hidden: int
    num_heads: int
    epsilon: float
    hidden_act: str
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        per_layer: None,
        intervals: Intervals,
    ) -> tuple[Float[Array, "B N D"], None]:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = lay(x, ROWS, POSITIONS, WHOLE)
        h = LayerNorm(self.epsilon, name="layer_norm1", **kinds)(x)
        x = x + SelfAttention(self.num_heads, name="self_attn", **kinds)(h, *intervals)
        h = LayerNorm(self.epsilon, name="layer_norm2", **kinds)(x)
        x = x + MLP(self.hidden, self.hidden_act, name="mlp", **kinds)(h)
        return x, per_layer


class SelfAttention(nn.Module):
    """Multi-head attention over intervals of keys."""

    num_heads: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        kv_start: Int[Array, "B N"],
        kv_end: Int[Array, "B N"],
    ) -> Float[Array, "B N D"]:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        b, n, d = x.shape
        into, out = (axes.VISION_EMBED, axes.VISION_HEADS), (axes.VISION_HEADS, axes.VISION_EMBED)
        q, k, v = (
            Dense(d, into, name=name, **kinds)(x).reshape(b, n, self.num_heads, -1)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        y = attention(q, k, v, kv_start, kv_end).reshape(b, n, d)
        return Dense(d, out, name="projection_layer", **kinds)(y)


class MLP(nn.Module):
    """Linear, GELU, Linear."""

    hidden: int
    hidden_act: str
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        h = Dense(self.hidden, (axes.VISION_EMBED, axes.VISION_MLP), name="fc1", **kinds)(x)
        h = jax.nn.gelu(h, approximate=ACTIVATIONS[self.hidden_act])
        return Dense(x.shape[-1], (axes.VISION_MLP, axes.VISION_EMBED), name="fc2", **kinds)(h)

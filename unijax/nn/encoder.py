"""The transformer encoder of vision and text towers: blocks with LayerNorm, biases and an MLP.

What published towers differ in is data (`EncoderConfig`). SigLIP and CLIP have the plain block,
norms before the branches and GELU; EVA-02 (arXiv 2303.11331) gates its MLP, puts norms inside the
branches and turns queries and keys by their place; EVA-CLIP's largest tower (arXiv 2303.15389) has
its norms behind the branches.

Parameters are named as in transformers' Janus (`projection_layer` is `out_proj` elsewhere), and as
in EVA-02's release where that has more: `inner_attn_ln`, `mlp/{w1,w2,ffn_ln,w3}`, `gamma_1`.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int, UInt32

from unijax.core import axes
from unijax.core.mesh import POSITIONS, ROWS, WHOLE, lay
from unijax.nn.initializers import Inits, block_inits
from unijax.nn.layers import Dense, LayerNorm
from unijax.nn.stack import stack
from unijax.ops.attention import attention
from unijax.ops.dropping import drop_path_scales
from unijax.ops.rope import apply_rope


def quick_gelu(x: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """`x sigmoid(1.702 x)`, which OpenAI trained CLIP with."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "quick_gelu": quick_gelu,
}
SWIGLU = "swiglu"  # a gated MLP (arXiv 2002.05202)

Intervals = tuple[Int[Array, "B N"], Int[Array, "B N"]]
Rope = tuple[Float[Array, "B N half"], Float[Array, "B N half"]]


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """A stack of equal blocks.

    Attributes:
      num_layers: blocks.
      hidden: width of the MLP.
      hidden_act: a key of `ACTIVATIONS`, or `SWIGLU`.
      key_bias: False: keys have no bias, queries and values do.
      attention_norm: a norm between the heads and their projection.
      mlp_norm: a norm between the activation and the last matrix of the MLP.
      post_norm: norms behind the branches, before they are added, instead of before them
        (arXiv 2111.09883, section 3.2).
      layer_scale: initial value of a learned scale of every channel of a branch (arXiv 2103.17239);
        0 for none.
      drop_path: how often the last block drops a branch; earlier ones in proportion, the first
        never (arXiv 1603.09382).
      init: a key of `nn.initializers.SCHEMES`.
    """

    num_layers: int
    hidden: int
    num_heads: int
    epsilon: float
    hidden_act: str = "gelu"
    key_bias: bool = True
    attention_norm: bool = False
    mlp_norm: bool = False
    post_norm: bool = False
    layer_scale: float = 0.0
    drop_path: float = 0.0
    init: str = "normal"

    def flops(self, width: int, tokens: int, pairs: int) -> int:
        """Of the matrix products of a forward pass, 2 per multiply-add.

        Args:
          width: of the residual.
          pairs: (query, key) that attention sees.
        """
        matrices = 3 if self.hidden_act == SWIGLU else 2
        each = 4 * width * width + matrices * width * self.hidden
        return self.num_layers * (2 * tokens * each + 4 * pairs * width)

    def last_flops(self, width: int, tokens: int) -> int:
        """The share of it of every block's last product, which recomputation need not do again."""
        return self.num_layers * 2 * tokens * width * self.hidden


class Encoder(nn.Module):
    """The stack.

    Attributes:
      remat: "none", "dots" or "full" (`nn.stack`).
    """

    config: EncoderConfig
    remat: str = "none"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        intervals: Intervals,
        rope: Rope | None = None,
        seed: UInt32[Array, " B"] | None = None,
    ) -> Float[Array, "B N D"]:
        """Hidden states after the last block.

        Args:
          intervals: the keys that each position sees (`ops.attention`).
          rope: cosines and sines that turn queries and keys (`ops.rope`).
          seed: of each row, of what it drops; None drops nothing.
        """
        cfg = self.config
        per_layer = {}
        if self.is_initializing():
            per_layer["depth"] = jnp.arange(1, cfg.num_layers + 1)
        if cfg.drop_path and seed is not None:
            per_layer["scale"] = drop_path_scales(seed, cfg.num_layers, cfg.drop_path)
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        layers = stack(Layer, cfg.num_layers, self.remat, "layers", config=cfg, **kinds)
        return layers(x, per_layer, (intervals, rope))[0]


class Layer(nn.Module):
    """One block: attention, then the MLP, each added to the residual."""

    config: EncoderConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        per_layer: dict[str, Array],
        shared: tuple[Intervals, Rope | None],
    ) -> tuple[Float[Array, "B N D"], None]:
        """`per_layer`: which block this is, from 1, while it is made; `scale` [B, 2] of the two
        branches of every row where some are dropped."""
        cfg, kinds = self.config, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        inits = block_inits(cfg, per_layer.get("depth"))
        scale = per_layer.get("scale")
        intervals, rope = shared

        def added(i: int, branch, *inputs):
            norm = LayerNorm(cfg.epsilon, name=f"layer_norm{i}", **kinds)
            y = norm(branch(x, *inputs)) if cfg.post_norm else branch(norm(x), *inputs)
            if cfg.layer_scale:
                init = nn.initializers.constant(cfg.layer_scale)
                init = nn.with_logical_partitioning(init, (axes.NORM,))
                gamma = self.param(f"gamma_{i}", init, y.shape[-1:], self.param_dtype)
                y = (y * gamma).astype(y.dtype)
            if scale is not None:
                y = (y * scale[:, i - 1, None, None]).astype(y.dtype)
            return x + y

        x = lay(x, ROWS, POSITIONS, WHOLE)
        x = added(1, SelfAttention(cfg, inits, name="self_attn", **kinds), *intervals, rope)
        gated = cfg.hidden_act == SWIGLU
        x = added(2, (SwiGLU if gated else MLP)(cfg, inits, name="mlp", **kinds))
        return x, None


class SelfAttention(nn.Module):
    """Multi-head attention over intervals of keys."""

    config: EncoderConfig
    inits: Inits
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        kv_start: Int[Array, "B N"],
        kv_end: Int[Array, "B N"],
        rope: Rope | None = None,
    ) -> Float[Array, "B N D"]:
        cfg, kinds = self.config, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        b, n, d = x.shape

        def heads(name: str, init, use_bias: bool = True) -> Float[Array, "B N H d"]:
            names = (axes.VISION_EMBED, axes.VISION_HEADS)
            y = Dense(d, names, use_bias, init, name=name, **kinds)(x)
            return y.reshape(b, n, cfg.num_heads, -1)

        q = heads("q_proj", self.inits.query)
        k = heads("k_proj", self.inits.query, cfg.key_bias)
        v = heads("v_proj", self.inits.value)
        if rope is not None:
            q, k = apply_rope(q, *rope), apply_rope(k, *rope)
        y = attention(q, k, v, kv_start, kv_end).reshape(b, n, d)
        if cfg.attention_norm:
            y = LayerNorm(cfg.epsilon, name="inner_attn_ln", **kinds)(y)
        names, init = (axes.VISION_HEADS, axes.VISION_EMBED), self.inits.attention_out
        return Dense(d, names, kernel_init=init, name="projection_layer", **kinds)(y)


class MLP(nn.Module):
    """Linear, activation, Linear."""

    config: EncoderConfig
    inits: Inits
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        cfg, kinds = self.config, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        into, out = (axes.VISION_EMBED, axes.VISION_MLP), (axes.VISION_MLP, axes.VISION_EMBED)
        h = Dense(cfg.hidden, into, kernel_init=self.inits.mlp_in, name="fc1", **kinds)(x)
        h = ACTIVATIONS[cfg.hidden_act](h)
        if cfg.mlp_norm:
            h = LayerNorm(cfg.epsilon, name="ffn_ln", **kinds)(h)
        return Dense(x.shape[-1], out, kernel_init=self.inits.mlp_out, name="fc2", **kinds)(h)


class SwiGLU(nn.Module):
    """`w3(silu(w1 x) * w2 x)`, with a norm before `w3` or without."""

    config: EncoderConfig
    inits: Inits
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        cfg, kinds = self.config, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        into, out = (axes.VISION_EMBED, axes.VISION_MLP), (axes.VISION_MLP, axes.VISION_EMBED)
        gate, up = (
            Dense(cfg.hidden, into, kernel_init=self.inits.mlp_in, name=name, **kinds)(x)
            for name in ("w1", "w2")
        )
        h = jax.nn.silu(gate) * up
        if cfg.mlp_norm:
            h = LayerNorm(cfg.epsilon, name="ffn_ln", **kinds)(h)
        return Dense(x.shape[-1], out, kernel_init=self.inits.mlp_out, name="w3", **kinds)(h)

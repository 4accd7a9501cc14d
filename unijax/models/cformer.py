"""Emu's Causal Transformer: features of a picture, of any number, as a run of vectors in order.

A T5 decoder (arXiv 1910.10683) whose inputs are learned queries and whose memory is the picture
(arXiv 2307.05222, section 2.1): each query sees those before it and all features. As in T5, scores
are not divided by the root of the width of a head, and self-attention has a bias by distance, which
the first block holds for all. A linear layer brings the queries to the decoder's width.

Its dropout of 0.1 is left out. Submodules against transformers' `T5Stack` of a decoder:

    layers/self_attn/q             block.N.layer.0.SelfAttention.q
    layers/cross_attn/q            block.N.layer.1.EncDecAttention.q
    layers/mlp/wi                  block.N.layer.2.DenseReluDense.wi
    layers/layer_norm_0            block.N.layer.0.layer_norm
    relative_attention_bias        block.0.layer.0.SelfAttention.relative_attention_bias
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from unijax.core import axes
from unijax.core.errors import UserError
from unijax.nn.layers import Dense, RMSNorm
from unijax.nn.stack import stack


@dataclasses.dataclass(frozen=True)
class CFormerConfig:
    """Shape of the transformer.

    Attributes:
      num_queries: vectors that a picture becomes.
      head_dim: of each head; heads need not add up to the width.
      num_buckets, max_distance: of the bias by distance.

    Raises:
      UserError: an odd number of buckets, or none.
    """

    num_queries: int = 32
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    head_dim: int = 64
    num_buckets: int = 32
    max_distance: int = 128
    rms_norm_eps: float = 1e-6

    def __post_init__(self):
        if self.num_buckets < 2 or self.num_buckets % 2 or self.max_distance <= self.num_buckets:
            raise UserError(
                "CFormerConfig.num_buckets, max_distance",
                f"{self.num_buckets}, {self.max_distance}",
                "an even number, and a larger one", "Correct them.",
            )  # fmt: skip

    def flops_per_image(self, tokens: int, width: int, out: int) -> int:
        """Of matrix products, 2 per multiply-add; pairs that the mask hides are worked.

        Args:
          tokens, width: of the features.
          out: width of the vectors.
        """
        q, d, inner = self.num_queries, self.hidden_size, self.num_attention_heads * self.head_dim
        of_queries = 2 * q * (6 * d * inner + 2 * d * self.intermediate_size)
        layer = of_queries + 2 * tokens * 2 * width * inner + 4 * q * (q + tokens) * inner
        return self.num_hidden_layers * layer + 2 * q * d * out


SIZES = {
    "emu_cformer": CFormerConfig(),
    "cformer_test": CFormerConfig(4, 24, 40, 2, 3, 8, 8, 16),
}


def buckets(length: int, count: int, max_distance: int) -> np.ndarray:
    """int32 [length, length]: the bucket of the distance of a query (row) back to a key.

    Half of them are for a distance each, the others for ever wider ranges; what lies behind the
    query is in the first.
    """
    back = np.maximum(np.arange(length)[:, None] - np.arange(length)[None], 0)
    exact = count // 2
    ratio = np.log(np.maximum(back, 1).astype(np.float32) / exact) / math.log(max_distance / exact)
    wide = exact + (ratio * (count - exact)).astype(np.int32)
    return np.where(back < exact, back, np.minimum(wide, count - 1)).astype(np.int32)


class Attention(nn.Module):
    """T5's: no biases in the products, nothing divided."""

    config: CFormerConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B Q D"],
        memory: Float[Array, "B M K"],
        bias: Float[Array, "H Q M"] | None,
    ) -> Float[Array, "B Q D"]:
        cfg = self.config
        kinds = dict(use_bias=False, dtype=self.dtype, param_dtype=self.param_dtype)
        inner = cfg.num_attention_heads * cfg.head_dim

        def heads(name: str, y: Array) -> Array:
            y = Dense(inner, (axes.VISION_EMBED, axes.VISION_HEADS), name=name, **kinds)(y)
            return y.reshape(*y.shape[:2], cfg.num_attention_heads, cfg.head_dim)

        q, k, v = heads("q", x), heads("k", memory), heads("v", memory)
        scores = jnp.einsum("bqhd,bmhd->bhqm", q, k, preferred_element_type=jnp.float32)
        scores = scores if bias is None else scores + bias
        seen = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
        y = jnp.einsum("bhqm,bmhd->bqhd", seen, v).reshape(*x.shape[:2], inner)
        names = (axes.VISION_HEADS, axes.VISION_EMBED)
        return Dense(cfg.hidden_size, names, name="o", **kinds)(y)


class MLP(nn.Module):
    """Linear, ReLU, linear."""

    config: CFormerConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B Q D"]) -> Float[Array, "B Q D"]:
        cfg, names = self.config, (axes.VISION_EMBED, axes.VISION_MLP)
        kinds = dict(use_bias=False, dtype=self.dtype, param_dtype=self.param_dtype)
        h = Dense(cfg.intermediate_size, names, name="wi", **kinds)(x)
        return Dense(cfg.hidden_size, names[::-1], name="wo", **kinds)(jax.nn.relu(h))


class Block(nn.Module):
    """Attention to the queries so far, to the picture, then the MLP; each behind a norm."""

    config: CFormerConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x, per_layer, shared):
        memory, bias = shared
        cfg, kinds = self.config, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = lambda i, y: RMSNorm(cfg.rms_norm_eps, name=f"layer_norm_{i}", **kinds)(y)  # noqa: E731
        h = norm(0, x)
        x = x + Attention(cfg, name="self_attn", **kinds)(h, h, bias)
        x = x + Attention(cfg, name="cross_attn", **kinds)(norm(1, x), memory, None)
        return x + MLP(cfg, name="mlp", **kinds)(norm(2, x)), per_layer


class CFormer(nn.Module):
    """The transformer.

    Attributes:
      config: sizes.
      features: width of the vectors that it gives.
      remat: of the layers: "none", "dots" or "full" (`nn.stack`).
    """

    config: CFormerConfig
    features: int
    remat: str = "none"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, memory: Float[Array, "B M K"]) -> Float[Array, "B Q F"]:
        """The vectors of pictures, from their features."""
        cfg, kinds = self.config, {"dtype": self.dtype, "param_dtype": self.param_dtype}

        def parameter(name: str, shape: tuple[int, int], names: tuple[str, str]) -> Array:
            init = nn.with_logical_partitioning(nn.initializers.normal(0.02), names)
            return self.param(name, init, shape, self.param_dtype)

        n, d = cfg.num_queries, cfg.hidden_size
        queries = parameter("queries", (n, d), (axes.POSITIONS, axes.VISION_EMBED))
        shape = cfg.num_buckets, cfg.num_attention_heads
        table = parameter("relative_attention_bias", shape, (axes.POSITIONS, axes.NORM))
        of_pairs = table.astype(jnp.float32)[buckets(n, cfg.num_buckets, cfg.max_distance)]
        hidden = np.triu(np.full((n, n), np.finfo(np.float32).min), 1)
        bias = jnp.moveaxis(of_pairs, -1, 0) + hidden
        layers = stack(Block, cfg.num_hidden_layers, self.remat, "layers", config=cfg, **kinds)
        x = jnp.broadcast_to(queries.astype(self.dtype), (len(memory), n, d))
        x, _ = layers(x, None, (memory.astype(self.dtype), bias))
        x = RMSNorm(cfg.rms_norm_eps, name="final_layer_norm", **kinds)(x)
        return Dense(self.features, (axes.VISION_EMBED, axes.EMBED), name="projection", **kinds)(x)

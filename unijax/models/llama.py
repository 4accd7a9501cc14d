"""Llama decoder (arXiv 2302.13971): DeepSeek-LLM, hence Janus's language model.

Pre-norm blocks with RMSNorm, rotary grouped-query attention and SwiGLU, no biases, an untied head.
The tree fits transformers' `LlamaForCausalLM`: read `layers/self_attn/q_proj/kernel` `[L, in, out]`
as `model.layers.N.self_attn.q_proj.weight` `[out, in]`.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from unijax.core import axes, cost
from unijax.core.cost import Cost
from unijax.core.errors import UserError
from unijax.core.mesh import POSITIONS, ROWS, WHOLE, lay
from unijax.nn.layers import Dense, Embed, RMSNorm
from unijax.nn.stack import stack
from unijax.ops.attention import attention
from unijax.ops.rope import apply_rope, rope_tables


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """Shape of a decoder. Field names are those of transformers' `LlamaConfig`.

    Raises:
      UserError: sizes that do not divide.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    max_position_embeddings: int = 16384  # recorded for exports; rotary positions need no table

    def __post_init__(self):
        if self.num_attention_heads % self.num_key_value_heads:
            raise UserError(
                "LlamaConfig.num_key_value_heads",
                f"{self.num_key_value_heads}",
                f"a divisor of num_attention_heads={self.num_attention_heads}",
                "Change one of them.",
            )
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                "LlamaConfig.num_attention_heads",
                f"{self.num_attention_heads}",
                f"a divisor of hidden_size={self.hidden_size}",
                "Change one of them.",
            )
        if self.head_dim % 2:
            raise UserError(
                "LlamaConfig.head_dim", f"{self.head_dim}", "an even number", "Change it."
            )

    def count_parameters(self) -> dict[str, int]:
        """By group: the embedding, all layers with the last norm, and the head."""
        d, m = self.hidden_size, self.intermediate_size
        q, kv = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        layer = 2 * d * q + 2 * d * kv + 3 * d * m + 2 * d
        return {
            "embed_tokens": self.vocab_size * d,
            "layers": self.num_hidden_layers * layer + d,
            "lm_head": self.vocab_size * d,
        }

    def flops_per_token(self) -> int:
        """Of the layers' matrix products, forward, 2 per multiply-add; no head, no attention."""
        d, m = self.hidden_size, self.intermediate_size
        q, kv = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        return 2 * self.num_hidden_layers * (2 * d * q + 2 * d * kv + 3 * d * m)

    def flops_per_pair(self) -> int:
        """Of attention, forward, for each (query, visible key): scores and weighted values."""
        return 4 * self.num_hidden_layers * self.num_attention_heads * self.head_dim

    def costs(self, group: str) -> tuple[Cost, ...]:
        """Of its layers, of attention and of the head, with its parameters under `group`."""
        last = 2.0 * self.num_hidden_layers * self.hidden_size * self.intermediate_size
        head = 2.0 * self.hidden_size * self.vocab_size
        layers, pair = float(self.flops_per_token()), float(self.flops_per_pair())
        return (
            Cost("decoder", "decoder", f"{group}/layers", cost.TOKENS, layers, last),
            Cost("attention", "attention", "", cost.PAIRS, pair, 0.0),
            Cost("text head", "head", f"{group}/lm_head", cost.targets("text"), head),
        )


SIZES = {
    "deepseek_1b": LlamaConfig(102400, 2048, 5632, 24, 16, 16, 128),
    "deepseek_7b": LlamaConfig(102400, 4096, 11008, 30, 32, 32, 128),
    "llama_test": LlamaConfig(96, 32, 48, 2, 4, 2, 8),
}


@flax.struct.dataclass
class KVCache:
    """Keys and values of all layers, written in place: an array of its own for each layer, heads
    before entries, as the products of a decoding step read them.

    Attributes:
      k, v: tuples of L arrays [B, Hkv, S, head_dim].
      length: int32 scalar, how many entries are filled: where the next go. It is one for all rows:
        rows of different length end together, padding stands before them and is below `kv_start`.
    """

    k: Any
    v: Any
    length: Any


def init_cache(config: LlamaConfig, batch: int, length: int, dtype: DTypeLike) -> KVCache:
    """An empty cache of static `length` S."""
    shape = (batch, config.num_key_value_heads, length, config.head_dim)
    empty = tuple(jnp.zeros(shape, dtype) for _ in range(config.num_hidden_layers))
    return KVCache(empty, empty, jnp.zeros((), jnp.int32))


class Attention(nn.Module):
    """Rotary grouped-query attention, with or without a cache of earlier keys and values."""

    config: LlamaConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x, cache, rope, kv_start, kv_end):
        cfg = self.config
        kinds = dict(use_bias=False, dtype=self.dtype, param_dtype=self.param_dtype)
        b, t, _ = x.shape
        d, heads, kv_heads = cfg.head_dim, cfg.num_attention_heads, cfg.num_key_value_heads
        q = Dense(heads * d, (axes.EMBED, axes.HEADS), name="q_proj", **kinds)(x)
        k = Dense(kv_heads * d, (axes.EMBED, axes.KV_HEADS), name="k_proj", **kinds)(x)
        v = Dense(kv_heads * d, (axes.EMBED, axes.KV_HEADS), name="v_proj", **kinds)(x)
        q = apply_rope(q.reshape(b, t, heads, d), *rope)
        k = apply_rope(k.reshape(b, t, kv_heads, d), *rope)
        v = v.reshape(b, t, kv_heads, d)
        if cache is not None:
            *cache, length = cache
            at = (0, 0, length, 0)
            cache = tuple(
                jax.lax.dynamic_update_slice(old, new.swapaxes(1, 2).astype(old.dtype), at)
                for old, new in zip(cache, (k, v))
            )
            k, v = (c.swapaxes(1, 2).astype(self.dtype) for c in cache)
        out = attention(q, k, v, kv_start, kv_end).reshape(b, t, heads * d)
        out = Dense(cfg.hidden_size, (axes.HEADS, axes.EMBED), name="o_proj", **kinds)(out)
        return out, cache


class MLP(nn.Module):
    """SwiGLU (arXiv 2002.05202)."""

    config: LlamaConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        cfg = self.config
        kinds = dict(use_bias=False, dtype=self.dtype, param_dtype=self.param_dtype)
        gate = Dense(cfg.intermediate_size, (axes.EMBED, axes.MLP), name="gate_proj", **kinds)(x)
        up = Dense(cfg.intermediate_size, (axes.EMBED, axes.MLP), name="up_proj", **kinds)(x)
        down = Dense(cfg.hidden_size, (axes.MLP, axes.EMBED), name="down_proj", **kinds)
        return down(jax.nn.silu(gate) * up)


class Layer(nn.Module):
    """Attention, then SwiGLU, each behind a norm and added to the residual."""

    config: LlamaConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x, cache, shared):
        eps = self.config.rms_norm_eps
        kinds = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        x = lay(x, ROWS, POSITIONS, WHOLE)
        h = RMSNorm(eps, name="input_layernorm", **kinds)(x)
        h, cache = Attention(self.config, name="self_attn", **kinds)(h, cache, *shared)
        x = x + h
        h = RMSNorm(eps, name="post_attention_layernorm", **kinds)(x)
        return x + MLP(self.config, name="mlp", **kinds)(h), cache


class Llama(nn.Module):
    """The decoder: embeddings in, hidden states after the last norm out."""

    config: LlamaConfig
    remat: str = "none"  # see nn.stack
    unrolled: bool = False  # layers_0, layers_1, ... (nn.stack.unstack) in place of a scan
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        cfg, kinds = self.config, dict(dtype=self.dtype, param_dtype=self.param_dtype)
        self.embed_tokens = Embed(
            cfg.vocab_size, cfg.hidden_size, (axes.VOCAB, axes.EMBED), **kinds
        )
        if self.unrolled:
            # A scan copies the parameters of a layer out of the stack before it uses them. With few
            # tokens, as in decoding, that costs more than the layer.
            self.layers = [Layer(cfg, **kinds) for _ in range(cfg.num_hidden_layers)]
        else:
            self.layers = stack(
                Layer, cfg.num_hidden_layers, self.remat, "layers", config=cfg, **kinds
            )
        self.norm = RMSNorm(cfg.rms_norm_eps, **kinds)
        self.lm_head = Dense(cfg.vocab_size, (axes.EMBED, axes.VOCAB), use_bias=False, **kinds)

    def embed(self, ids: Int[Array, "*batch"]) -> Float[Array, "*batch D"]:
        """Rows of the embedding table."""
        return self.embed_tokens(ids)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        position: Int[Array, "B T"],
        kv_start: Int[Array, "B T"],
        kv_end: Int[Array, "B T"],
        cache: KVCache | None = None,
    ) -> tuple[Float[Array, "B T D"], KVCache | None]:
        """Hidden states after the last norm, and the cache with the new keys and values.

        Args:
          x: embeddings.
          position: rotary positions.
          kv_start, kv_end: the keys that each position sees: indices of the row itself, or, with a
            cache, of the cache after this call.
          cache: the T new entries of every row go to `length` onwards, and must fit; `length`
            grows by T. Only the unrolled decoder has one.
        """
        rope = rope_tables(position, self.config.head_dim, self.config.rope_theta)
        shared = (rope, kv_start, kv_end)
        if not self.unrolled:
            assert cache is None, "decoding with a cache needs Llama(unrolled=True)"
            x, _ = self.layers(x, None, shared)
            return self.norm(x), None
        kept = []
        for i, layer in enumerate(self.layers):
            entries = None if cache is None else (cache.k[i], cache.v[i], cache.length)
            x, entries = layer(x, entries, shared)
            kept.append(entries)
        if cache is not None:
            k, v = zip(*kept)
            cache = KVCache(k, v, cache.length + position.shape[1])
        return self.norm(x), cache

    def logits(self, hidden: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """Of the text head, float32."""
        return self.lm_head(hidden).astype(jnp.float32)

    def init_all(self, ids: Int[Array, "B T"]) -> Float[Array, "B T V"]:
        """Touches every parameter: for `init`."""
        zeros = jnp.zeros_like(ids)
        hidden, _ = self(self.embed(ids), zeros, zeros, zeros + 1)
        return self.logits(hidden)

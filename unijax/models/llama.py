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

from unijax.core import axes
from unijax.core.errors import UserError
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


SIZES = {
    "deepseek_1b": LlamaConfig(102400, 2048, 5632, 24, 16, 16, 128),
    "deepseek_7b": LlamaConfig(102400, 4096, 11008, 30, 32, 32, 128),
    "llama_test": LlamaConfig(96, 32, 48, 2, 4, 2, 8),
}


@flax.struct.dataclass
class KVCache:
    """Keys and values of all layers, written in place.

    Attributes:
      k, v: [L, B, S, Hkv, head_dim].
      length: int32 [B], how many entries of each row are filled: where its next one goes.
    """

    k: Any
    v: Any
    length: Any


def init_cache(config: LlamaConfig, batch: int, length: int, dtype: DTypeLike) -> KVCache:
    """An empty cache of static `length` S."""
    shape = (config.num_hidden_layers, batch, length, config.num_key_value_heads, config.head_dim)
    return KVCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.zeros(batch, jnp.int32))


class Attention(nn.Module):
    """Rotary grouped-query attention, with or without a cache of earlier keys and values."""

    config: LlamaConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x, rope, kv_start, kv_end, cache, layer):
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
            # Only the new entries are written: the cache is a carry, updated where it lies.
            row = jnp.arange(b)[:, None]
            at = cache.length[:, None] + jnp.arange(t)
            cache = cache.replace(
                k=cache.k.at[layer, row, at].set(k.astype(cache.k.dtype), mode="drop"),
                v=cache.v.at[layer, row, at].set(v.astype(cache.v.dtype), mode="drop"),
            )
            k, v = cache.k[layer].astype(self.dtype), cache.v[layer].astype(self.dtype)
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
    def __call__(self, carry, layer, shared):
        x, cache = carry
        eps = self.config.rms_norm_eps
        kinds = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        h = RMSNorm(eps, name="input_layernorm", **kinds)(x)
        h, cache = Attention(self.config, name="self_attn", **kinds)(h, *shared, cache, layer)
        x = x + h
        h = RMSNorm(eps, name="post_attention_layernorm", **kinds)(x)
        return (x + MLP(self.config, name="mlp", **kinds)(h), cache), None


class Llama(nn.Module):
    """The decoder: embeddings in, hidden states after the last norm out."""

    config: LlamaConfig
    remat: str = "none"  # see nn.stack
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        cfg, kinds = self.config, dict(dtype=self.dtype, param_dtype=self.param_dtype)
        self.embed_tokens = Embed(
            cfg.vocab_size, cfg.hidden_size, (axes.VOCAB, axes.EMBED), **kinds
        )
        self.layers = stack(Layer, cfg.num_hidden_layers, self.remat, "layers", config=cfg, **kinds)
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
          cache: the T new entries of row b go to `length[b]` onwards; `length` grows by T. A caller
            whose rows are padded sets `length` itself.
        """
        rope = rope_tables(position, self.config.head_dim, self.config.rope_theta)
        index = jnp.arange(self.config.num_hidden_layers)
        (x, cache), _ = self.layers((x, cache), index, (rope, kv_start, kv_end))
        if cache is not None:
            cache = cache.replace(length=cache.length + position.shape[1])
        return self.norm(x), cache

    def logits(self, hidden: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """Of the text head, float32."""
        return self.lm_head(hidden).astype(jnp.float32)

    def init_all(self, ids: Int[Array, "B T"]) -> Float[Array, "B T V"]:
        """Touches every parameter: for `init`."""
        zeros = jnp.zeros_like(ids)
        hidden, _ = self(self.embed(ids), zeros, zeros, zeros + 1)
        return self.logits(hidden)

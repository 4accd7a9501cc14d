"""Llama decoder (arXiv 2302.13971), and what others changed of it.

Blocks with RMSNorm, rotary grouped-query attention and SwiGLU; by default pre-norm, no biases, an
untied head. By its options also Llama 3.1 (arXiv 2407.21783), Chameleon (arXiv 2405.09818), Qwen2
and Qwen2.5 (arXiv 2407.10671, 2412.15115), and, with Qwen2.5-VL's positions, its language model
(arXiv 2502.13923). The tree fits transformers' classes of those names: read
`layers/self_attn/q_proj/kernel` `[L, in, out]` as `model.layers.N.self_attn.q_proj.weight`
`[out, in]`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int, UInt32

from unijax.core import axes, cost
from unijax.core.bounds import BELOW_ONE, NOT_NEGATIVE, POSITIVE, check_numbers
from unijax.core.cost import Cost
from unijax.core.errors import UserError
from unijax.core.mesh import POSITIONS, ROWS, WHOLE, lay
from unijax.core.record import added
from unijax.nn.layers import (
    DEFAULT_INIT,
    Dense,
    Dropout,
    Embed,
    Initializer,
    LayerNorm,
    Place,
    RMSNorm,
)
from unijax.nn.stack import stack
from unijax.ops.attention import attention
from unijax.ops.rope import RopeScaling, apply_rope, rope_tables

# A norm of every head of queries and keys, with scales of its own, over the width of the head.
QK_NORMS = (
    "none",
    "layer_norm",  # with biases, before rotary positions: Chameleon
    "rms_norm",  # after them: the connector of MetaQuery
)
NORM_ORDERS = (
    "pre",  # x + f(norm(x))
    "post",  # x + norm(f(x)): Chameleon 34B; transformers' `swin_norm`
)


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """Shape of a decoder. Field names are those of transformers' configs.

    Raises:
      UserError: sizes that do not divide, or an unknown name.
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
    rope_scaling: RopeScaling | None = added(None)
    mrope_section: tuple[int, ...] = added(())  # of positions [B, T, A] (`ops.rope.rope_tables`)
    qkv_bias: bool = added(False)
    qk_norm: str = added("none")  # one of `QK_NORMS`
    norm_order: str = added("pre")  # one of `NORM_ORDERS`
    tie_word_embeddings: bool = added(False)  # the head is the embedding, transposed
    dropout: float = added(0.0)  # of what attention and SwiGLU add to the residual

    def __post_init__(self):
        bounds = {"rms_norm_eps": NOT_NEGATIVE, "rope_theta": POSITIVE, "dropout": BELOW_ONE}
        check_numbers(self, "LlamaConfig", bounds)
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
        if self.mrope_section and sum(self.mrope_section) != self.head_dim // 2:
            raise UserError(
                "LlamaConfig.mrope_section",
                f"{self.mrope_section}",
                f"numbers whose sum is half of head_dim={self.head_dim}",
                "Change them.",
            )
        for name, allowed in (("qk_norm", QK_NORMS), ("norm_order", NORM_ORDERS)):
            if getattr(self, name) not in allowed:
                raise UserError(
                    f"LlamaConfig.{name}", repr(getattr(self, name)), f"one of {allowed}",
                    "Correct the config.",
                )  # fmt: skip

    def count_parameters(self) -> dict[str, int]:
        """By group: the embedding, all layers with the last norm, and the head."""
        d, m = self.hidden_size, self.intermediate_size
        q, kv = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        layer = 2 * d * q + 2 * d * kv + 3 * d * m + 2 * d
        if self.qkv_bias:
            layer += q + 2 * kv
        layer += {"none": 0, "layer_norm": 2, "rms_norm": 1}[self.qk_norm] * (q + kv)
        return {
            "embed_tokens": self.vocab_size * d,
            "layers": self.num_hidden_layers * layer + d,
            "lm_head": 0 if self.tie_word_embeddings else self.vocab_size * d,
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
        table = "embed_tokens" if self.tie_word_embeddings else "lm_head"
        return (
            Cost("decoder", "decoder", f"{group}/layers", cost.TOKENS, layers, last),
            Cost("attention", "attention", "", cost.PAIRS, pair, 0.0, again=1.5),
            Cost("text head", "head", f"{group}/{table}", cost.targets("text"), head),
        )


def _transfusion(hidden: int, intermediate: int, layers: int, heads: int) -> LlamaConfig:
    """Llama 2's vocabulary, and the begin and end of an image."""
    head_dim = hidden // heads
    return LlamaConfig(
        32002, hidden, intermediate, layers, heads, heads, head_dim, 1e-5,
        max_position_embeddings=4096,
    )  # fmt: skip


def _qwen(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, **more: Any):
    head_dim = hidden // heads
    return LlamaConfig(
        more.pop("vocab_size", 151936), hidden, intermediate, layers, heads, kv_heads, head_dim,
        1e-6, 1e6, **({"max_position_embeddings": 32768, "qkv_bias": True} | more),
    )  # fmt: skip


SIZES = {
    "deepseek_1b": LlamaConfig(102400, 2048, 5632, 24, 16, 16, 128),
    "deepseek_7b": LlamaConfig(102400, 4096, 11008, 30, 32, 32, 128),
    "llama_13b": LlamaConfig(
        32000, 5120, 13824, 40, 40, 40, 128, 1e-6, max_position_embeddings=2048
    ),
    "llama2_7b": LlamaConfig(
        32000, 4096, 11008, 32, 32, 32, 128, 1e-5, max_position_embeddings=4096
    ),
    "llama3_8b": LlamaConfig(128256, 4096, 14336, 32, 32, 8, 128, 1e-5, 5e5, 8192),
    "llama3.1_8b": LlamaConfig(
        128256, 4096, 14336, 32, 32, 8, 128, 1e-5, 5e5, 131072,
        rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8192),
    ),
    "chameleon_7b": LlamaConfig(
        65536, 4096, 11008, 32, 32, 32, 128, 1e-5, 1e4, 4096, qk_norm="layer_norm", dropout=0.1
    ),
    "chameleon_34b": LlamaConfig(
        65536, 8192, 22016, 48, 64, 8, 128, 1e-5, 1e4, 4096, qk_norm="layer_norm",
        norm_order="post",
    ),
    # Table 2 of arXiv 2408.11039; the width of SwiGLU by Llama's rule.
    "transfusion_0.16b": _transfusion(768, 2048, 16, 12),
    "transfusion_0.37b": _transfusion(1024, 2816, 24, 16),
    "transfusion_0.76b": _transfusion(1536, 4096, 24, 24),
    "transfusion_1.4b": _transfusion(2048, 5632, 24, 16),
    "transfusion_7b": _transfusion(4096, 11008, 32, 32),
    "qwen2_0.5b": _qwen(
        896, 4864, 24, 14, 2, tie_word_embeddings=True, max_position_embeddings=131072
    ),
    "qwen2.5_3b": _qwen(2048, 11008, 36, 16, 2, tie_word_embeddings=True),
    "qwen2.5_7b": _qwen(3584, 18944, 28, 28, 4, vocab_size=152064, max_position_embeddings=131072),
    "qwen2.5_vl_3b": _qwen(
        2048, 11008, 36, 16, 2, tie_word_embeddings=True, max_position_embeddings=128000,
        mrope_section=(16, 24, 24),
    ),
    "qwen2.5_vl_7b": _qwen(
        3584, 18944, 28, 28, 4, vocab_size=152064, max_position_embeddings=128000,
        mrope_section=(16, 24, 24),
    ),
    "llama_test": LlamaConfig(96, 32, 48, 2, 4, 2, 8),
}  # fmt: skip


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
    """The products of rotary grouped-query attention, with what stands between them left out."""

    config: LlamaConfig
    init: Initializer = DEFAULT_INIT
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        cfg, kinds = self.config, dict(dtype=self.dtype, param_dtype=self.param_dtype)
        q, kv = cfg.num_attention_heads * cfg.head_dim, cfg.num_key_value_heads * cfg.head_dim
        self.q_proj = Dense(q, (axes.EMBED, axes.HEADS), cfg.qkv_bias, self.init, **kinds)
        self.k_proj = Dense(kv, (axes.EMBED, axes.KV_HEADS), cfg.qkv_bias, self.init, **kinds)
        self.v_proj = Dense(kv, (axes.EMBED, axes.KV_HEADS), cfg.qkv_bias, self.init, **kinds)
        self.o_proj = Dense(cfg.hidden_size, (axes.HEADS, axes.EMBED), False, self.init, **kinds)
        if cfg.qk_norm == "layer_norm":
            self.q_norm = LayerNorm(1e-5, scaled_dims=2, **kinds)
            self.k_norm = LayerNorm(1e-5, scaled_dims=2, **kinds)
        if cfg.qk_norm == "rms_norm":
            # The reference divides by the length itself; a head of zeros stays one.
            self.q_norm = RMSNorm(1e-24, scaled_dims=2, **kinds)
            self.k_norm = RMSNorm(1e-24, scaled_dims=2, **kinds)

    def before(self, x: Float[Array, "B T D"], rope, place: Place | None):
        """Queries, keys and values, [B, T, H, head_dim], turned by their positions."""
        cfg, (b, t, _) = self.config, x.shape
        q, k, v = (
            project(x, place).reshape(b, t, -1, cfg.head_dim)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if cfg.qk_norm == "layer_norm":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = apply_rope(q, *rope), apply_rope(k, *rope)
        if cfg.qk_norm == "rms_norm":
            q, k = self.q_norm(q), self.k_norm(k)
        return q, k, v

    def after(self, heads: Float[Array, "B T H d"], place: Place | None) -> Float[Array, "B T D"]:
        """What the values that were seen add to the residual."""
        return self.o_proj(heads.reshape(*heads.shape[:2], -1), place)


def attend(q, k, v, cache, kv_start, kv_end):
    """What each query sees, of the keys and values of this call, or of the cache with them in it.

    Args:
      cache: None, or keys and values [B, Hkv, S, head_dim] and how many of S are there already.
    """
    if cache is not None:
        *cache, length = cache
        at = (0, 0, length, 0)
        cache = tuple(
            jax.lax.dynamic_update_slice(old, new.swapaxes(1, 2).astype(old.dtype), at)
            for old, new in zip(cache, (k, v))
        )
        k, v = (c.swapaxes(1, 2).astype(q.dtype) for c in cache)
    with jax.named_scope("self_attn"):
        return attention(q, k, v, kv_start, kv_end), cache


class MLP(nn.Module):
    """SwiGLU (arXiv 2002.05202)."""

    config: LlamaConfig
    init: Initializer = DEFAULT_INIT
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], place: Place | None = None
    ) -> Float[Array, "B T D"]:
        cfg = self.config
        kinds = dict(
            use_bias=False, kernel_init=self.init, dtype=self.dtype, param_dtype=self.param_dtype
        )
        gate = Dense(cfg.intermediate_size, (axes.EMBED, axes.MLP), name="gate_proj", **kinds)
        up = Dense(cfg.intermediate_size, (axes.EMBED, axes.MLP), name="up_proj", **kinds)
        down = Dense(cfg.hidden_size, (axes.MLP, axes.EMBED), name="down_proj", **kinds)
        return down(jax.nn.silu(gate(x, place)) * up(x, place), place)


class Layer(nn.Module):
    """Attention, then SwiGLU, each behind or before a norm and added to the residual."""

    config: LlamaConfig
    init: Initializer = DEFAULT_INIT  # of the kernels
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        cfg, kinds = self.config, dict(dtype=self.dtype, param_dtype=self.param_dtype)
        self.input_layernorm = RMSNorm(cfg.rms_norm_eps, **kinds)
        self.self_attn = Attention(cfg, self.init, **kinds)
        self.attention_dropout = Dropout(cfg.dropout)
        self.post_attention_layernorm = RMSNorm(cfg.rms_norm_eps, **kinds)
        self.mlp = MLP(cfg, self.init, **kinds)
        self.mlp_dropout = Dropout(cfg.dropout)

    @property
    def _post(self) -> bool:
        return self.config.norm_order == "post"

    def before(self, x: Float[Array, "B T D"], rope, place: Place | None):
        """Queries, keys and values."""
        return self.self_attn.before(x if self._post else self.input_layernorm(x), rope, place)

    def after(
        self, x: Float[Array, "B T D"], heads: Float[Array, "B T H d"], place: Place | None
    ) -> Float[Array, "B T D"]:
        """The residual with what the heads saw."""
        h = self.self_attn.after(heads, place)
        h = self.input_layernorm(h) if self._post else h
        return x + self.attention_dropout(h, place)

    def feed(self, x: Float[Array, "B T D"], place: Place | None) -> Float[Array, "B T D"]:
        """The residual with SwiGLU of it."""
        norm = self.post_attention_layernorm
        h = self.mlp(x if self._post else norm(x), place)
        return x + self.mlp_dropout(norm(h) if self._post else h, place)

    def __call__(self, x, cache, shared):
        place, rope, kv_start, kv_end = shared
        x = lay(x, ROWS, POSITIONS, WHOLE)
        heads, cache = attend(*self.before(x, rope, place), cache, kv_start, kv_end)
        return self.feed(self.after(x, heads, place), place), cache


def through(
    layers: Sequence[nn.Module], x: Any, cache: KVCache | None, shared: Any, new: int
) -> tuple[Any, KVCache | None]:
    """What unrolled layers make of `x`, and the cache with the `new` entries of every row."""
    kept = []
    for i, layer in enumerate(layers):
        entries = None if cache is None else (cache.k[i], cache.v[i], cache.length)
        x, entries = layer(x, entries, shared)
        kept.append(entries)
    if cache is not None:
        k, v = zip(*kept)
        cache = KVCache(k, v, cache.length + new)
    return x, cache


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
        if not cfg.tie_word_embeddings:
            self.lm_head = Dense(cfg.vocab_size, (axes.EMBED, axes.VOCAB), use_bias=False, **kinds)

    def embed(self, ids: Int[Array, "*batch"]) -> Float[Array, "*batch D"]:
        """Rows of the embedding table."""
        return self.embed_tokens(ids)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        position: Int[Array, "B T"] | Int[Array, "B T A"],
        kv_start: Int[Array, "B T"],
        kv_end: Int[Array, "B T"],
        cache: KVCache | None = None,
        document: UInt32[Array, "B T"] | None = None,
    ) -> tuple[Float[Array, "B T D"], KVCache | None]:
        """Hidden states after the last norm, and the cache with the new keys and values.

        Where the config or adapters have dropout and `apply` is given an rng "dropout", values are
        dropped: of a position by that rng, the layer, its document and its place in it.

        Args:
          x: embeddings.
          position: rotary positions, of one axis or of as many as `mrope_section` has.
          kv_start, kv_end: the keys that each position sees: indices of the row itself, or, with a
            cache, of the cache after this call.
          cache: the T new entries of every row go to `length` onwards, and must fit; `length`
            grows by T. Only the unrolled decoder has one.
          document: number of the document (`PackedBatch.uid`) that each position is of; only
            dropout reads it.
        """
        cfg = self.config
        rope = rope_tables(
            position, cfg.head_dim, cfg.rope_theta, cfg.rope_scaling, cfg.mrope_section
        )
        place = None
        if document is not None:
            place = document, *jnp.moveaxis(position.reshape(*document.shape, -1), -1, 0)
        shared = (place, rope, kv_start, kv_end)
        if not self.unrolled:
            assert cache is None, "decoding with a cache needs Llama(unrolled=True)"
            x, _ = self.layers(x, None, shared)
            return self.norm(x), None
        x, cache = through(self.layers, x, cache, shared, position.shape[1])
        return self.norm(x), cache

    def logits(self, hidden: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """Of the text head, float32."""
        head = self.embed_tokens.attend if self.config.tie_word_embeddings else self.lm_head
        return head(hidden).astype(jnp.float32)

    def init_all(self, ids: Int[Array, "B T"]) -> Float[Array, "B T V"]:
        """Touches every parameter: for `init`."""
        zeros = jnp.zeros_like(ids)
        hidden, _ = self(self.embed(ids), zeros, zeros, zeros + 1)
        return self.logits(hidden)

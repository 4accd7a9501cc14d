"""LLaVA: a language model that reads pictures (arXiv 2304.08485), and what grew out of it.

A tower's features of a picture's patches go through a projector and stand in the row like words;
all is causal, and text is learned. LLaVA-NeXT (llava-vl.github.io/blog/2024-01-30-llava-next),
LLaVA-OneVision (arXiv 2408.03326) and Qwen2.5-VL (arXiv 2502.13923) are this system with other
parts: the first shows a picture whole and in parts, with a vector at the ends of their rows; the
second shows it twice, with that vector; the third's tower ends with a projector of its own, its
pictures stand between marks, and its positions have three axes.

Our choice: pictures are squares of one size, as MetaQuery shows them. Qwen2.5-VL's own sizes are
what its tower can (`models.qwen_vision`).
"""

import dataclasses
from typing import Any

import flax.struct
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from unijax.core import cost
from unijax.core.batch import Kind, PackedBatch, Target
from unijax.core.cost import Cost
from unijax.core.keys import named
from unijax.core.stream import Layout
from unijax.core.system import Encoded, Loss, Metrics, Params, Recipe, Sums
from unijax.models import clip, llama, qwen_vision, siglip
from unijax.models.llama import KVCache
from unijax.ops import rows
from unijax.ops.grid_positions import grid_positions
from unijax.systems.language import Language, mean_of
from unijax.systems.reading import Reading, ReadingConfig


@dataclasses.dataclass(frozen=True)
class LlavaConfig(ReadingConfig):
    """What it reads with, and:

    Attributes:
      head_chunk: positions of a device whose logits exist at one time.
    """

    head_chunk: int = 512


@flax.struct.dataclass
class PictureCache(KVCache):
    """Also how far the positions of each row are drawn back by its pictures, int32 [B]."""

    drawn_back: Any


@dataclasses.dataclass(frozen=True)
class Llava(Reading, Language):
    """The recipe.

    Parameter groups: `language_model`, `vision_model`, and `aligner` where the tower has no
    projector of its own.

    Attributes:
      config: sizes.
      dtype: of compute.
      param_dtype: of stored, trained parameters.
      remat: of the decoder's and tower's layers: "none", "dots" or "full".
    """

    config: LlavaConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    remat: str = "none"

    encoders = frozenset({"vision_model"})
    keeps = ("vision_model/",)
    rows_alone = True
    sees_whole = ()
    unused = ()
    maker = None

    @property
    def layout(self) -> Layout:
        return Layout((self._und,), "bos" if self.config.begins else None)

    @property
    def encoded(self) -> dict[str, Encoded]:
        return {"und": self.features}

    @property
    def losses(self) -> dict[str, Loss]:
        return {
            "text": Loss("nats a token", "text", "text"),
            "understanding": Loss("nats a token", "und", "answers about pictures"),
        }

    @property
    def head_dims(self) -> dict[str, int]:
        """Width of a head of attention, by group (`train.mup`)."""
        c = self.config
        return {"language_model": c.text.head_dim, "vision_model": c.tower_head_dim}

    def _parts(self) -> dict:
        """How the groups of parameters begin: from a key to `{"params": ...}`."""
        ids = jnp.zeros((1, 1), jnp.int32)
        decoder = lambda k: self.language_model.init(k, ids, method="init_all")  # noqa: E731
        return {"language_model": decoder} | self.reading_parts()

    def init(self, key: Array) -> Params:
        """Fresh parameters, boxed with logical names."""
        return {name: fn(named(key, name))["params"] for name, fn in self._parts().items()}

    # Inputs

    def embed(self, params: Params, batch: PackedBatch) -> Float[Array, "B T D"]:
        """Every position's embedding, by the kind of its input."""
        x = self.embed_text(params, jnp.where(batch.kind == Kind.TEXT, batch.tokens, 0))
        return self.with_pictures(params, x, batch)

    def positions(self, batch: PackedBatch) -> Int[Array, "B T"] | Int[Array, "B T A"]:
        """Rotary positions of packed rows."""
        return self._axes(batch.position, batch.kind)[0]

    def _axes(self, position, kind):
        """Positions of as many axes as the decoder has, and how far they are drawn back."""
        if not self.config.text.mrope_section:
            return position, jnp.zeros(position.shape[0], jnp.int32)
        side = round(self.config.vision.num_tokens**0.5)
        return grid_positions(position, kind == Kind.UND, side)

    def states(
        self,
        params: Params,
        x: Float[Array, "B T D"],
        batch: PackedBatch,
        key: Array | None = None,
    ) -> Float[Array, "B T D"]:
        """Hidden states after the final norm; see `Language.states`."""
        return super().states(params, x, batch.replace(position=self.positions(batch)), key)

    # What the loop knows

    def weights(self, batch: PackedBatch) -> Sums:
        """A mean over the text that is learned."""
        return {"text": jnp.sum(jnp.where(batch.target_kind == Target.TEXT, batch.weight, 0.0))}

    def counts(self, batch: PackedBatch) -> Metrics:
        """Tokens and targets by kind, documents, and the share of padding."""
        return rows.counts(batch, self.layout, _texts(batch))

    def loss(
        self,
        params: Params,
        batch: PackedBatch,
        key: Array | None,
        step: Array,
        frozen: frozenset[str],
    ) -> tuple[Sums, Metrics]:
        """Summed cross-entropy of the text head."""
        del step
        hidden = self.states(params, self.embed(params, batch), batch, key)
        return self._read(params, hidden, batch, frozen)

    def _read(self, params, hidden, batch, frozen) -> tuple[Sums, Metrics]:
        text, weight = self.text_loss(params, hidden, batch, frozen)
        metrics = {}
        for name, here in _texts(batch).items():
            metrics |= mean_of(name, text, jnp.where(here, weight, 0.0))
        return {"text": text.sum}, metrics

    def amounts(self, batch: PackedBatch, as_causal: bool = False) -> dict[str, Array]:
        return rows.amounts(batch, self.layout, self.sees_whole, as_causal)

    @property
    def costs(self) -> tuple[Cost, ...]:
        return (*self.config.text.costs("language_model"), *self.reading_costs)

    @property
    def modalities(self) -> dict[str, dict[str, float]]:
        return {
            "text": {cost.TOKENS: 1.0, cost.targets("text"): 1.0},
            "understanding": {cost.TOKENS: 1.0} | self.seen,
        }

    @property
    def lookups(self) -> dict[str, str]:
        return {"language_model/embed_tokens/embedding": cost.TOKENS}

    # Decoding with a cache

    def init_cache(self, batch: int, length: int) -> PictureCache:
        """An empty cache with room for `length` entries."""
        empty = super().init_cache(batch, length)
        return PictureCache(empty.k, empty.v, empty.length, jnp.zeros(batch, jnp.int32))

    def decode(
        self,
        params: Params,
        x: Float[Array, "B T D"],
        position: Int[Array, "B T"],
        kv_start: Int[Array, "B T"],
        kv_end: Int[Array, "B T"],
        cache: PictureCache,
        kind: Kind | Int[Array, "B T"] = Kind.TEXT,
    ) -> tuple[Float[Array, "B T D"], PictureCache]:
        """As of any decoder. The kinds of a prompt say where its pictures are."""
        back = cache.drawn_back
        if not isinstance(kind, Kind):
            position, back = self._axes(position, kind)
        elif self.config.text.mrope_section:
            position = jnp.repeat((position - back[:, None])[..., None], 3, axis=-1)
        hidden, cache = super().decode(params, x, position, kv_start, kv_end, cache)
        return hidden, PictureCache(cache.k, cache.v, cache.length, back)


def _texts(batch: PackedBatch) -> dict[str, Array]:
    """The text that is learned, by the name of its loss."""
    text = batch.target_kind == Target.TEXT
    understands = rows.same_document_has(batch.kind == Kind.UND, batch.segment)
    return {"text": text & ~understands, "understanding": text & understands}


_QWEN = qwen_vision.SIZES
SIZES = {
    # Its tower's features are those before the last layer (transformers' vision_feature_layer=-2).
    "llava_next_8b": LlavaConfig(
        dataclasses.replace(llama.SIZES["llama3_8b"], vocab_size=128320),
        dataclasses.replace(clip.VISION_SIZES["clip_vit_large_patch14_336"], num_hidden_layers=23,
                            features="pre_norm"),
        newline=True,
        begins=True,
        tiles=2,
    ),
    "llava_onevision_0.5b": LlavaConfig(
        dataclasses.replace(llama.SIZES["qwen2_0.5b"], vocab_size=152000,
                            max_position_embeddings=32768),
        siglip.SIZES["siglip_so400m_patch14_384"],
        newline=True,
    ),
    "qwen2.5_vl_3b": LlavaConfig(llama.SIZES["qwen2.5_vl_3b"], _QWEN["qwen2.5_vl_3b"]),
    "qwen2.5_vl_7b": LlavaConfig(llama.SIZES["qwen2.5_vl_7b"], _QWEN["qwen2.5_vl_7b"]),
}  # fmt: skip

RECIPE = Recipe("llava", Llava, LlavaConfig, "rows", SIZES, "unijax.systems.llava_ladders:LADDERS")

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
from unijax.core.errors import UserError
from unijax.core.keys import named
from unijax.core.mesh import ROWS, WHOLE, lay
from unijax.core.record import added
from unijax.core.stream import Layout, Mark, Stream
from unijax.core.system import Encoded, Loss, Metrics, Params, Recipe, Sums
from unijax.models import clip, llama, qwen_vision, siglip
from unijax.models.llama import KVCache, LlamaConfig
from unijax.models.qwen_vision import QwenVisionConfig
from unijax.models.towers import ReaderConfig, Tower, check_whole
from unijax.nn.picture_tokens import PictureTokens, picture_tokens
from unijax.ops import rows, tiles
from unijax.ops.grid_positions import grid_positions
from unijax.systems.language import Language, mean_of
from unijax.systems.slots import values_of

MARKS = ("vision_start", "vision_end")  # of pictures, where a tower has them


@dataclasses.dataclass(frozen=True)
class LlavaConfig:
    """Sizes of the parts.

    Attributes:
      text: the decoder.
      vision: the tower.
      newline: the picture comes twice, the second time with a vector at the end of every row.
      resize: how a picture becomes a square (`core.stream.RESIZES`).
      begins: whether a document begins with the begin-of-sequence token; Qwen2's do not.
      head_chunk: positions of a device whose logits exist at one time.
      tiles: parts of a side. Of several, the tower sees each at its own size and before them the
        whole made small; what comes the second time is the grid of all parts.

    Raises:
      UserError: a tower that does not show every patch, or parts that do not fit.
    """

    text: LlamaConfig
    vision: ReaderConfig
    newline: bool = False
    resize: str = "centre"
    begins: bool = False
    head_chunk: int = 512
    tiles: int = added(1)

    def __post_init__(self):
        check_whole("model.vision", self.vision)
        if self.tiles < 1:
            raise UserError("model.tiles", f"{self.tiles}", "1 or more", "Correct the config.")
        if self.tiles > 1 and self.merges:
            raise UserError(
                "model.tiles", f"{self.tiles} with a tower of Qwen2.5-VL", "1",
                "Its pictures come once, of any size: change model.vision.image_size.",
            )  # fmt: skip
        if self.tiles > 1 and not self.newline:
            raise UserError(
                "model.newline", f"False with tiles={self.tiles}", "True",
                "The rows of the grid that parts make end with a vector.",
            )  # fmt: skip
        most = self.text.max_position_embeddings
        if self.picture_tokens >= most:
            raise UserError(
                "model.vision",
                f"{self.picture_tokens} tokens of a picture",
                f"fewer than model.text.max_position_embeddings={most}",
                "Make pictures smaller or patches larger.",
            )
        if self.merges and self.newline:
            raise UserError(
                "model.newline", "True with a tower of Qwen2.5-VL", "False",
                "Its pictures come once.",
            )  # fmt: skip
        if self.merges and self.vision.out_hidden_size != self.text.hidden_size:
            raise UserError(
                "model.vision.out_hidden_size", f"{self.vision.out_hidden_size}",
                f"model.text.hidden_size, {self.text.hidden_size}", "Change one of them.",
            )  # fmt: skip
        if self.text.mrope_section and not self.merges:
            raise UserError(
                "model.text.mrope_section", f"{self.text.mrope_section}",
                "none: positions of three axes go with the tower of Qwen2.5-VL", "Remove it.",
            )  # fmt: skip

    @property
    def merges(self) -> bool:
        """Whether the tower ends at the decoder's width."""
        return isinstance(self.vision, QwenVisionConfig)

    @property
    def picture_tokens(self) -> int:
        """Positions of a picture."""
        return picture_tokens(self.vision.num_tokens, self.newline, self.tiles)

    @property
    def image_size(self) -> int:
        """Pixels of a side of a picture."""
        return self.tiles * self.vision.image_size

    @property
    def num_features(self) -> int:
        """N, of a picture: one for every patch that the tower sees."""
        return tiles.views(self.tiles) * self.vision.num_tokens

    @property
    def feature_width(self) -> int:
        """Of the tower's features."""
        return self.vision.out_hidden_size if self.merges else self.vision.hidden_size


@flax.struct.dataclass
class PictureCache(KVCache):
    """Also how far the positions of each row are drawn back by its pictures, int32 [B]."""

    drawn_back: Any


@dataclasses.dataclass(frozen=True)
class Llava(Language):
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
    def _und(self) -> Stream:
        c = self.config
        before, after = map(Mark, MARKS) if c.merges else (None, None)
        return Stream(
            "und", "und", Kind.UND, c.picture_tokens, c.image_size, c.resize,
            before=before, after=after,
        )  # fmt: skip

    @property
    def layout(self) -> Layout:
        return Layout((self._und,), "bos" if self.config.begins else None)

    @property
    def encoded(self) -> dict[str, Encoded]:
        shape = (self.config.num_features, self.config.feature_width)
        return {"und": Encoded("vision_model", "features", shape, "float32", "encode_und")}

    @property
    def losses(self) -> dict[str, Loss]:
        return {
            "text": Loss("nats a token", "text", "text"),
            "understanding": Loss("nats a token", "und", "answers about pictures"),
        }

    @property
    def head_dims(self) -> dict[str, int]:
        """Width of a head of attention, by group (`train.mup`)."""
        vision = self.config.vision
        width = vision.hidden_size // vision.num_attention_heads
        return {"language_model": self.config.text.head_dim, "vision_model": width}

    @property
    def vision_model(self) -> Tower:
        return Tower(self.config.vision, self.remat, **self._kinds)

    @property
    def aligner(self) -> PictureTokens:
        c = self.config
        return PictureTokens(c.text.hidden_size, c.newline, c.tiles, **self._kinds)

    def _parts(self) -> dict:
        """How the groups of parameters begin: from a key to `{"params": ...}`."""
        c, ids = self.config, jnp.zeros((1, 1), jnp.int32)
        features = jnp.zeros((1, c.num_features, c.feature_width), self.dtype)
        parts = {
            "language_model": lambda k: self.language_model.init(k, ids, method="init_all"),
            "vision_model": self.vision_model.init,
        }
        if not c.merges:
            parts["aligner"] = lambda k: self.aligner.init(k, features)
        return parts

    def init(self, key: Array) -> Params:
        """Fresh parameters, boxed with logical names."""
        return {name: fn(named(key, name))["params"] for name, fn in self._parts().items()}

    # Inputs

    def encode_und(
        self, params: Params, pixels: Float[Array, "B height width 3"]
    ) -> Float[Array, "B N D"]:
        """Features of pictures to read, from pixels in [-1, 1]: of the whole, then of the grid."""
        seen = tiles.cut(pixels, self.config.tiles)
        flat = seen.reshape(-1, *seen.shape[2:])
        found = self.vision_model.patches(params["vision_model"], flat)
        found = found.reshape(*seen.shape[:2], *found.shape[1:])
        grid = tiles.in_one_grid(found, self.config.tiles)
        if self.config.tiles == 1:
            return grid
        return lay(grid, ROWS, WHOLE, WHOLE)  # patches of several parts make each row of it

    def embed_und(
        self, params: Params, features: Float[Array, "*b N Dv"]
    ) -> Float[Array, "*b M D"]:
        """Tokens of pictures."""
        if self.config.merges:
            return features.astype(self.dtype)
        return self.aligner.apply({"params": params["aligner"]}, features)

    def embed(self, params: Params, batch: PackedBatch) -> Float[Array, "B T D"]:
        """Every position's embedding, by the kind of its input."""
        x = self.embed_text(params, jnp.where(batch.kind == Kind.TEXT, batch.tokens, 0))
        if "und" in batch.images:
            und = self.embed_und(params, values_of(self, params, batch, "und"))
            x = rows.place(x, und, batch.tokens, batch.kind == Kind.UND)
        return x

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
        c = self.config
        width, into = c.text.hidden_size, c.feature_width
        found = [*c.text.costs("language_model")]
        if not c.merges:
            each = 2.0 * c.num_features * (into + width) * width
            found.append(Cost("projector", "adaptor", "aligner", cost.images_of("und"), each))
        views = tiles.views(c.tiles)
        tower = views * float(c.vision.flops_per_image())
        last = views * float(c.vision.last_flops_per_image())
        name, unit = self.vision_model.name, cost.encoded_of("und")
        found.append(Cost(name, "tower", "vision_model", unit, tower, last))
        if c.tiles > 1:
            whole = float(tiles.shrink_flops(c.image_size, c.vision.image_size))
            found.append(Cost("whole picture", "tower", "", unit, whole, times=1.0))
        return tuple(found)

    @property
    def modalities(self) -> dict[str, dict[str, float]]:
        each = 1 / self.config.picture_tokens
        seen = {cost.images_of("und"): each, cost.encoded_of("und"): each}
        return {
            "text": {cost.TOKENS: 1.0, cost.targets("text"): 1.0},
            "understanding": {cost.TOKENS: 1.0} | seen,
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

"""What recipes share that read pictures: the features of a tower, through a projector, in the row.

The tower's parameters are under `vision_model`, the projector's under `aligner`.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from unijax.core import cost
from unijax.core.batch import Kind, PackedBatch
from unijax.core.cost import Cost
from unijax.core.errors import UserError
from unijax.core.mesh import ROWS, WHOLE, lay
from unijax.core.record import added
from unijax.core.stream import Mark, Stream
from unijax.core.system import Encoded, Params
from unijax.models.llama import LlamaConfig
from unijax.models.qwen_vision import QwenVisionConfig
from unijax.models.towers import ReaderConfig, Tower, check_whole
from unijax.nn.picture_tokens import PictureTokens, picture_tokens
from unijax.ops import rows, tiles
from unijax.systems.slots import values_of

MARKS = ("vision_start", "vision_end")  # of pictures, where a tower has them


@dataclasses.dataclass(frozen=True)
class ReadingConfig:
    """Sizes of the parts.

    Attributes:
      text: the decoder.
      vision: the tower.
      newline: the picture comes twice, the second time with a vector at the end of every row.
      resize: how a picture becomes a square (`core.stream.RESIZES`).
      begins: whether a document begins with the begin-of-sequence token; Qwen2's do not.
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

    @property
    def tower_head_dim(self) -> int:
        """Width of a head of the tower's attention."""
        return self.vision.hidden_size // self.vision.num_attention_heads


class Reading:
    """Of a recipe with a `ReadingConfig`, `dtype`, `param_dtype`, `remat`."""

    @property
    def _und(self) -> Stream:
        c = self.config
        before, after = map(Mark, MARKS) if c.merges else (None, None)
        return Stream(
            "und", "und", Kind.UND, c.picture_tokens, c.image_size, c.resize,
            before=before, after=after,
        )  # fmt: skip

    @property
    def features(self) -> Encoded:
        """What a cache may hold of a picture: the tower's features."""
        shape = (self.config.num_features, self.config.feature_width)
        return Encoded("vision_model", "features", shape, "float32", "encode_und")

    @property
    def vision_model(self) -> Tower:
        return Tower(self.config.vision, self.remat, **self._kinds)

    @property
    def aligner(self) -> PictureTokens:
        c = self.config
        return PictureTokens(c.text.hidden_size, c.newline, c.tiles, **self._kinds)

    def reading_parts(self) -> dict[str, Callable]:
        """How the groups of parameters begin: from a key to `{"params": ...}`."""
        c = self.config
        parts = {"vision_model": self.vision_model.init}
        if not c.merges:
            features = jnp.zeros((1, c.num_features, c.feature_width), self.dtype)
            parts["aligner"] = lambda k: self.aligner.init(k, features)
        return parts

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

    def with_pictures(
        self, params: Params, x: Float[Array, "B T D"], batch: PackedBatch
    ) -> Float[Array, "B T D"]:
        """Embeddings, with the tokens of pictures where these stand."""
        if "und" not in batch.images:
            return x
        und = self.embed_und(params, values_of(self, params, batch, "und"))
        return rows.place(x, und, batch.tokens, batch.kind == Kind.UND)

    @property
    def reading_costs(self) -> tuple[Cost, ...]:
        """Of all that is before the decoder."""
        c, found = self.config, []
        width, into = c.text.hidden_size, c.feature_width
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
    def seen(self) -> dict[str, float]:
        """Of a position of a picture, what it needs of the units of `reading_costs`."""
        each = 1 / self.config.picture_tokens
        return {cost.images_of("und"): each, cost.encoded_of("und"): each}

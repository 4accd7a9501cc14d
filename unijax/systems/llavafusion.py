"""LLaVAFusion: a model that reads pictures learns to draw them (arXiv 2412.15188, section 6).

LMFusion (`systems.lmfusion`) over a frozen LLaVA-NeXT (`systems.llava`). A picture to be read goes
through the frozen tower, projector and text side of every layer, causal as that model has it; one
to be drawn, or changed, is latents that go through the images' side and see each other whole. So
what is shown and asked is answered as the base answers it. Both may stand in one row.

Our choice: captions stand before the pictures that they describe. LMFusion learns a fifth of them
behind noised pictures; here a picture before its caption is one to be read, which is the tower's,
and `read_limit` limits nothing.
"""

import dataclasses

from jax import Array

from unijax.core import cost
from unijax.core.batch import Kind, PackedBatch
from unijax.core.cost import Cost
from unijax.core.errors import UserError
from unijax.core.keys import named
from unijax.core.stream import Layout
from unijax.core.system import Encoded, Loss, Params, Recipe
from unijax.models.autoencoder import AutoencoderConfig
from unijax.ops import rows
from unijax.systems import llava, lmfusion
from unijax.systems.lmfusion import LMFusion, LMFusionConfig
from unijax.systems.reading import Reading, ReadingConfig


@dataclasses.dataclass(frozen=True)
class LLaVAFusionConfig(LMFusionConfig, ReadingConfig):
    """LMFusion's, and what the frozen model reads with.

    Raises:
      UserError: what either refuses, or a tower without a projector behind it.
    """

    autoencoder: AutoencoderConfig = dataclasses.field(kw_only=True)

    def __post_init__(self):
        LMFusionConfig.__post_init__(self)
        ReadingConfig.__post_init__(self)
        if self.merges:
            raise UserError(
                "model.vision", f"a tower of the kind {self.vision.kind!r}",
                "one whose features a projector takes, as LLaVA-NeXT's", "Change it.",
            )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LLaVAFusion(Reading, LMFusion):
    """The recipe.

    Parameter groups: those of LMFusion, and the frozen `vision_model` and `aligner`.
    """

    config: LLaVAFusionConfig

    encoders = frozenset({"aligner", "autoencoder", "vision_model"})
    keeps = ("aligner/", "autoencoder/", "language_model/", "vision_model/")

    @property
    def layout(self) -> Layout:
        drawn = [stream for stream in super().layout.streams if stream.role != "und"]
        return Layout((self._und, *drawn), "bos" if self.config.begins else None)

    @property
    def encoded(self) -> dict[str, Encoded]:
        return super().encoded | {"und": self.features}

    @property
    def losses(self) -> dict[str, Loss]:
        about = "text after an image, or with one to read"
        return super().losses | {"understanding": Loss("nats a token", "und", about)}

    @property
    def head_dims(self) -> dict[str, int]:
        """Width of a head of attention, by group (`train.mup`)."""
        return super().head_dims | {"vision_model": self.config.tower_head_dim}

    def init(self, key: Array) -> Params:
        """Fresh parameters, boxed with logical names."""
        reads = {name: fn(named(key, name))["params"] for name, fn in self.reading_parts().items()}
        return super().init(key) | reads

    def _embed(self, params: Params, batch: PackedBatch):
        x, images = super()._embed(params, batch)
        return self.with_pictures(params, x, batch), images

    def _texts(self, batch: PackedBatch) -> dict[str, Array]:
        found = super()._texts(batch)
        reads = rows.same_document_has(batch.kind == Kind.UND, batch.segment)
        return found | {
            "text": found["text"] & ~reads,
            "understanding": found["understanding"] | (found["text"] & reads),
        }

    @property
    def costs(self) -> tuple[Cost, ...]:
        return (*super().costs, *self.reading_costs)

    @property
    def modalities(self) -> dict[str, dict[str, float]]:
        read = {cost.TOKENS: 1.0, cost.CAUSAL: 1.0}
        return super().modalities | {"understanding": read | self.seen}


# Section 6: LLaVA-NeXT 8B, and of LMFusion what draws.
_BASE, _DRAWS = llava.SIZES["llava_next_8b"], lmfusion.SIZES["lmfusion_8b"]
SIZES = {
    "llavafusion_8b": LLaVAFusionConfig(
        **{f.name: getattr(_BASE, f.name) for f in dataclasses.fields(ReadingConfig)},
        autoencoder=_DRAWS.autoencoder,
        unet=_DRAWS.unet,
    )
}

RECIPE = Recipe(
    "llavafusion",
    LLaVAFusion,
    LLaVAFusionConfig,
    "rows",
    SIZES,
    "unijax.systems.llavafusion_ladders:LADDERS",
)

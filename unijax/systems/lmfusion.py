"""LMFusion: a language model that learns to draw and keeps its words (arXiv 2412.15188).

Transfusion (`systems.transfusion`) over twins (`models.twins`): images have norms, products and
SwiGLU of their own in every layer, and meet the text in attention alone. The text side is an
imported Llama, which every stage of the paper freezes; the twin for images begins as its copy
(`init: {"image_twin": ":language_model"}`), the image layers at random. So texts without
images are answered as the base answers them, to the bit.

Our choice, where the paper is silent: images have a last norm of their own, which begins as the
text's.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from unijax.core import cost
from unijax.core.batch import Kind, PackedBatch
from unijax.core.cost import Cost
from unijax.core.errors import UserError
from unijax.core.system import Params, Recipe
from unijax.models import autoencoder, llama, unet
from unijax.models.llama import KVCache
from unijax.models.twins import SEPARATIONS, Twins
from unijax.nn.stack import unstack
from unijax.ops import rows
from unijax.ops.attention import packed_intervals
from unijax.systems.transfusion import IMAGE, Transfusion, TransfusionConfig


@dataclasses.dataclass(frozen=True)
class LMFusionConfig(TransfusionConfig):
    """Transfusion's, and how far the twins are apart.

    Attributes:
      separation: one of `models.twins.SEPARATIONS`. Without any, the system is Transfusion.

    Raises:
      UserError: an unknown separation, or a decoder with options that twins do not have.
    """

    guidance: float = 1.55
    separation: str = "deep"

    def __post_init__(self):
        super().__post_init__()
        if self.separation not in SEPARATIONS:
            raise UserError(
                "model.separation", repr(self.separation), f"one of {SEPARATIONS}",
                "Correct it; without separation the system is transfusion.",
            )  # fmt: skip
        if self.text.dropout or self.text.mrope_section:
            raise UserError(
                "model.text", "dropout, or positions of several axes", "neither: twins have none",
                "Take them out.",
            )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LMFusion(Transfusion):
    """The recipe.

    Parameter groups: those of Transfusion, and `image_twin`, which has the layers and the last norm
    of `language_model`, or of each layer what the separation parts.
    """

    config: LMFusionConfig

    keeps = ("autoencoder/", "language_model/")
    adapts = "image_twin/layers/"

    @property
    def head_dims(self) -> dict[str, int]:
        """Width of a head of attention, by group (`train.mup`)."""
        return dict.fromkeys(("language_model", "image_twin"), self.config.text.head_dim)

    def init(self, key: Array) -> Params:
        """Fresh parameters, boxed with logical names."""
        params = super().init(key)
        # A twin is what it begins as: the image side of a fresh model is a copy of its text side.
        whole = params["language_model"]
        layers = whole["layers"]
        if self.config.separation == "shallow":
            layers = {name: layers[name] for name in ("mlp", "post_attention_layernorm")}
        return params | {"image_twin": {"layers": layers, "norm": whole["norm"]}}

    def _twins(self, params: Params, unrolled: bool = False):
        """The module, and its parameters from those of both groups."""
        c, text, image = self.config, params["language_model"], params["image_twin"]
        twins = Twins(c.text, c.separation, self.remat, unrolled, **self._kinds)
        layers = {
            name: {"text": of_text, "image": image[name]}
            for name, of_text in text.items()
            if name.startswith("layers")
        }
        norms = {"norm": text["norm"], "image_norm": image["norm"]}
        return twins, {"params": layers | norms}

    def states(
        self,
        params: Params,
        x: Float[Array, "B T D"],
        batch: PackedBatch,
        key: Array | None = None,
    ) -> Float[Array, "B T D"]:
        """Hidden states behind the last norms, each of its modality, of packed rows."""
        if IMAGE not in batch.images:
            return super().states(params, x, batch, key)
        intervals = packed_intervals(batch.segment, batch.kind, batch.image, self.sees_whole)
        here = batch.kind == Kind.GEN
        slots = batch.images[IMAGE].weight.shape[1], self.config.num_tokens
        images = rows.collect(x, batch.tokens, here, slots)
        twins, both = self._twins(params)
        x, images, _ = twins.apply(both, x, images, batch.tokens, here, batch.position, *intervals)
        return rows.place(x, images, batch.tokens, here)

    def for_decoding(self, params: Params) -> Params:
        params = super().for_decoding(params)
        return params | {"image_twin": unstack(params["image_twin"], "layers")}

    def decode(
        self,
        params: Params,
        x: Float[Array, "B T D"],
        position: Int[Array, "B T"],
        kv_start: Int[Array, "B T"],
        kv_end: Int[Array, "B T"],
        cache: KVCache,
        kind: Kind | Int[Array, "B T"] = Kind.TEXT,
    ) -> tuple[Float[Array, "B T D"], KVCache]:
        """As of any decoder; of text alone, or of images alone, one twin is worked."""
        seen = position, kv_start, kv_end
        if isinstance(kind, Kind) and kind != Kind.GEN:
            return super().decode(params, x, *seen, cache)
        if isinstance(kind, Kind) and self.config.separation == "deep":
            image = params["image_twin"]
            alone = params["language_model"] | image  # a Llama whose layers are the images'
            return super().decode(params | {"language_model": alone}, x, *seen, cache)
        b, t, _ = x.shape
        here = jnp.broadcast_to(jnp.asarray(kind) == Kind.GEN, (b, t))
        of_text = super().decode

        def both() -> tuple[Float[Array, "B T D"], KVCache]:
            at = jnp.broadcast_to(jnp.arange(t, dtype=jnp.int32), (b, t))
            twins, params_ = self._twins(params, unrolled=True)
            text, images, grown = twins.apply(params_, x, x[:, None], at, here, *seen, cache)
            return jnp.where(here[..., None], images[:, 0], text), grown

        # A prompt without an image is the language model's own work, and no more.
        return jax.lax.cond(here.any(), both, lambda: of_text(params, x, *seen, cache))

    @property
    def costs(self) -> tuple[Cost, ...]:
        c = self.config
        layers, *rest = super().costs
        assert layers.name == "decoder", layers
        mine = layers.forward
        if c.separation == "shallow":
            mlp = 3 * layers.last  # three products of a size, the last of which is the layer's last
            attention = dataclasses.replace(
                layers, name="decoder, attention", group="language_model/layers/self_attn",
                forward=layers.forward - mlp, last=None,
            )  # fmt: skip
            rest.append(attention)
            mine = mlp
            layers = dataclasses.replace(layers, group="language_model/layers/mlp", forward=mlp)
        return (
            dataclasses.replace(layers, unit=cost.CAUSAL),
            dataclasses.replace(layers, name="image twin", group="image_twin/layers",
                                unit=cost.tokens_of(IMAGE), forward=mine),
            *rest,
        )  # fmt: skip

    @property
    def modalities(self) -> dict[str, dict[str, float]]:
        found = super().modalities
        text, patches = found["text"], found["patches"]
        return {
            "text": text | {cost.CAUSAL: 1.0},
            "patches": patches | {cost.tokens_of(IMAGE): 1.0},
        }


# Section 4: Llama-3 8B, latents of 32 x 32 x 8, two by two a patch.
SIZES = {
    "lmfusion_8b": LMFusionConfig(
        llama.SIZES["llama3_8b"], autoencoder.SIZES["transfusion_vae"], unet=unet.TRANSFUSION[2]
    )
}

RECIPE = Recipe(
    "lmfusion",
    LMFusion,
    LMFusionConfig,
    "rows",
    SIZES,
    "unijax.systems.lmfusion_ladders:LADDERS",
)

"""MetaMorph's visualiser: a diffusion model that paints what features of a picture show.

Features of a frozen tower, pooled and of length one (`systems.features`), are the condition of
Stable Diffusion's U-Net in place of its text encoder (arXiv 2412.14164, section 2.2; the released
code). The projector of the features and the U-Net learn; the loss is the noise's mean square error.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from unijax.core import cost
from unijax.core.batch import ImageBatch
from unijax.core.cost import Cost
from unijax.core.keys import named
from unijax.core.system import Encoded, Loss, Metrics, Params, Recipe, Sums
from unijax.models import autoencoder, siglip, unet
from unijax.models.towers import TowerConfig, check_whole
from unijax.ops.image import to_signed
from unijax.systems.features import PooledFeatures, VisualiserConfig, check_visualiser
from unijax.systems.latents import noise_loss
from unijax.systems.painter import PainterConfig


@dataclasses.dataclass(frozen=True)
class VisualiserSystemConfig:
    """Sizes.

    Attributes:
      vision: the tower; frozen.
      visualiser: the projector and the painter.
      grid: features of a picture's side.

    Raises:
      UserError: sizes that do not fit each other.
    """

    vision: TowerConfig
    visualiser: VisualiserConfig
    grid: int = 8

    def __post_init__(self):
        check_whole("model.vision", self.vision)
        check_visualiser(self)


@dataclasses.dataclass(frozen=True)
class Visualiser(PooledFeatures):
    """The recipe. Eats `ImageBatch`.

    Parameter groups: `condition` and `unet`, and `vision_model` and `autoencoder`, which stay as
    they are.

    Attributes:
      config: sizes.
      dtype: of compute.
      param_dtype: of stored, trained parameters.
      remat: of the U-Net's levels and the tower's layers: "none", "dots" or "full".
    """

    config: VisualiserSystemConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    remat: str = "none"

    encoders = frozenset({"vision_model", "autoencoder"})
    rows_alone = True
    lookups: ClassVar[dict[str, str]] = {}
    own_axes: ClassVar[dict[str, str]] = {}
    losses: ClassVar[dict[str, Loss]] = {"noise": Loss("MSE", "", "noise of pictures")}

    @property
    def unused(self) -> tuple[str, ...]:
        return self.painter.unused

    @property
    def encoded(self) -> dict[str, Encoded]:
        return {"vision": self.features, "latents": self.painter.moments}

    @property
    def head_dims(self) -> dict[str, int]:
        """Width of a head of attention, by group (`train.mup`)."""
        vision = self.config.vision
        return {"vision_model": vision.hidden_size // vision.num_attention_heads}

    @property
    def _kinds(self) -> dict:
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    def init(self, key: Array) -> Params:
        """Fresh parameters, boxed with logical names."""
        parts = {"vision_model": self.vision_model.init} | self.visualiser_inits
        return {name: fn(named(key, name))["params"] for name, fn in parts.items()}

    def encode_moments(
        self, params: Params, pixels: Float[Array, "B height width 3"]
    ) -> Float[Array, "B h w moments"]:
        """Means and log-variances of latents, from pixels in [-1, 1]."""
        return self.painter.encode_moments(params, pixels)

    def rebuild(
        self, params: Params, pixels: Float[Array, "B height width 3"]
    ) -> Float[Array, "B height width 3"]:
        """What the autoencoder makes of pictures in [-1, 1]: no painted one can be better."""
        return self.decode_latents(params, self.painter.encode_latents(params, pixels))

    # What the loop knows

    def weights(self, batch: ImageBatch) -> Sums:
        """A mean over the pictures."""
        return {"noise": jnp.sum(batch.weight)}

    def counts(self, batch: ImageBatch) -> Metrics:
        """Images that are not filling."""
        return {"images": (jnp.sum(batch.weight), jnp.ones(()))}

    def loss(
        self,
        params: Params,
        batch: ImageBatch,
        key: Array | None,
        step: Array,
        frozen: frozenset[str],
    ) -> tuple[Sums, Metrics]:
        """Summed errors of the noise, of each picture the mean over its latents.

        In evaluation no condition is dropped. The metrics `noise/loss/q0` to `q3` are of the
        quarters of the schedule, from little noise to much.
        """
        del step, frozen
        pixels = to_signed(batch.pixels, self.dtype)
        features, moments = batch.features, batch.latents
        if features is None:
            features = self.encode_features(params, pixels)
        if moments is None:
            moments = self.encode_moments(params, pixels)
        condition = self.conditioned(params, features)
        if key is not None:
            condition = self.painter.dropped(condition, batch.seed)
        error, timestep = self.painter.errors(params, moments, condition, batch.seed)
        schedule = self.config.visualiser.painter.schedule
        total, metrics = noise_loss(error, batch.weight, timestep, schedule)
        return {"noise": total}, metrics

    def amounts(self, batch: ImageBatch, as_causal: bool = False) -> dict[str, Array]:
        del as_causal  # no packed rows
        found = {cost.IMAGES: jnp.sum(batch.weight)}
        for name, made in (("vision", batch.features), ("latents", batch.latents)):
            if made is None:
                found[cost.encoded_of(name)] = found[cost.IMAGES]
        return found

    @property
    def costs(self) -> tuple[Cost, ...]:
        vision, tokens = self.config.vision, self.config.visualiser.tokens
        return (
            Cost("condition", "adaptor", "condition", cost.IMAGES, self.condition_flops()),
            *self.painter.costs(cost.IMAGES, cost.encoded_of("latents"), tokens),
            Cost(self.vision_model.name, "tower", "vision_model", cost.encoded_of("vision"),
                 float(vision.flops_per_image()), float(vision.last_flops_per_image()),
                 backward=False),
        )  # fmt: skip


# The released scripts: Stable Diffusion 1.5's networks, a condition that is dropped eight times in
# ten, 50 steps.
SIZES = {
    "metamorph_visualiser": VisualiserSystemConfig(
        dataclasses.replace(siglip.SIZES["siglip_so400m_patch14_384"], num_hidden_layers=27),
        VisualiserConfig(
            PainterConfig(unet.SIZES["sd15_unet"], autoencoder.SIZES["sd_vae"], drop=0.8)
        ),
    )
}

RECIPE = Recipe("visualiser", Visualiser, VisualiserSystemConfig, "pictures", SIZES)

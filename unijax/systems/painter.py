"""Painting: a diffusion model that makes pictures of vectors, which another network wrote.

Latent diffusion (arXiv 2112.10752): a U-Net whose context is a run of vectors, over the latents of
an autoencoder that stays as it is. Its loss is the mean square error of the noise. In training the
vectors are zeros now and then, so that it can be guided (arXiv 2207.12598).

A part of recipes that paint (`models.unet`, `systems.latents`), whose parameters it finds under
`unet` and `autoencoder`. How a picture is drawn with it is `core.making.Painting`.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int, UInt32

from unijax.core.bounds import BELOW_ONE, NOT_NEGATIVE, check_numbers
from unijax.core.cost import Cost
from unijax.core.errors import UserError
from unijax.core.making import FREE, Painting
from unijax.core.system import Params
from unijax.models.autoencoder import AutoencoderConfig
from unijax.models.generators import check_latents
from unijax.models.unet import UNet, UNetConfig
from unijax.ops import draws
from unijax.ops.diffusion import (
    EPSILON,
    NoiseSchedule,
    Sampler,
    V,
    add_noise,
    check_prediction,
    draw_noise,
    draw_timesteps,
    make_sampler,
    target,
)
from unijax.systems.latents import ImageLatents, check_variances

# Stable Diffusion 1's (its scheduler_config.json).
STABLE_DIFFUSION = NoiseSchedule("scaled_linear", 1000, 0.00085, 0.012)
_FLAGS = {
    "pndm": {"skip_prk_steps": True, "steps_offset": 1},
    "ddim": {"set_alpha_to_one": False, "steps_offset": 1},
}


@dataclasses.dataclass(frozen=True)
class PainterConfig:
    """Sizes of a painter, and how it learns and paints.

    Attributes:
      unet: its `cross_attention_dim` is the width of the vectors.
      autoencoder: of pictures and latents; frozen.
      schedule: of the noise.
      prediction: what the U-Net says of noised latents: "epsilon", their noise, or "v_prediction".
      drop: how often in training the vectors of a picture are zeros.
      sampler: of `ops.diffusion`, with the flags of Stable Diffusion's releases.
      steps: of denoising.
      guidance: of painting; 1 is without.
      free: what is painted without a condition (`core.making.FREE`).

    Raises:
      UserError: networks that do not fit each other, an unknown name, or numbers out of range.
    """

    unet: UNetConfig
    autoencoder: AutoencoderConfig
    schedule: NoiseSchedule = STABLE_DIFFUSION
    prediction: str = EPSILON
    drop: float = 0.1
    sampler: str = "pndm"
    steps: int = 50
    guidance: float = 7.5
    free: str = "zeros"

    def __post_init__(self):
        u = self.unet
        check_latents("painter.unet", u, "the autoencoder", self.autoencoder)
        if not u.cross_attention_dim or not u.mid_block:
            raise UserError(
                "painter.unet",
                f"cross_attention_dim={u.cross_attention_dim}, mid_block={u.mid_block}",
                "the width of the vectors, and True", "Take a whole U-Net that reads a context.",
            )  # fmt: skip
        check_prediction("painter.prediction", self.prediction, (EPSILON, V))
        check_variances("painter.schedule", self.schedule)
        self.make_sampler(self.steps)  # refuses what it could not paint with
        if self.free not in FREE:
            raise UserError("painter.free", repr(self.free), f"one of {FREE}", "Correct it.")
        check_numbers(self, "painter", {"drop": BELOW_ONE, "guidance": NOT_NEGATIVE})

    def make_sampler(self, steps: int) -> Sampler:
        """Of `steps` denoising steps."""
        flags = _FLAGS.get(self.sampler, {})
        return make_sampler(
            self.sampler, self.schedule, steps, prediction_type=self.prediction, **flags
        )

    def check_width(self, what: str, width: int) -> None:
        """Raises UserError for vectors of another width than the U-Net reads."""
        if width != self.unet.cross_attention_dim:
            raise UserError(
                "painter.unet.cross_attention_dim", f"{self.unet.cross_attention_dim}",
                f"{width}, the width of {what}", "Take a U-Net that was made for these vectors.",
            )  # fmt: skip


class Paints:
    """Of a recipe with a `painter`: what its maker names."""

    def predict_noise(
        self,
        params: Params,
        latents: Float[Array, "B h w C"],
        timestep: Float[Array, " B"],
        condition: Float[Array, "B M K"],
    ) -> Float[Array, "B h w C"]:
        return self.painter.predict(params, latents, timestep, condition)

    def sampler_of(self, steps: int) -> Sampler:
        return self.painter.sampler_of(steps)

    def decode_latents(
        self, params: Params, latents: Float[Array, "B h w C"]
    ) -> Float[Array, "B height width 3"]:
        return self.painter.decode_latents(params, latents)


@dataclasses.dataclass(frozen=True)
class Painter(ImageLatents):
    """The networks, without their parameters.

    Attributes:
      config: sizes.
      remat: of the U-Net's levels: "none", "dots" or "full" (`nn.stack`).
    """

    config: PainterConfig
    remat: str = "none"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    # Pictures are made in drawing alone.
    unused: ClassVar[tuple[str, ...]] = ("autoencoder/decoder", "autoencoder/post_quant_conv")

    @property
    def unet(self) -> UNet:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return UNet(self.config.unet, self.remat, **kinds)

    @property
    def inits(self) -> dict[str, Callable[[Array], Params]]:
        """By group: from a key to fresh `{"params": ...}`, boxed with logical names."""
        u = self.config.unet
        latent = jnp.zeros((1, u.sample_size, u.sample_size, u.in_channels), self.dtype)
        context = jnp.zeros((1, 1, u.cross_attention_dim), self.dtype)
        return {
            "unet": lambda k: self.unet.init(k, latent, jnp.zeros(1), context),
            "autoencoder": self.init_autoencoder,
        }

    def painting(self, **methods: str) -> Painting:
        """As a maker says it; `methods` are of the recipe, in place of the painter's own names."""
        c = self.config
        shape = (c.autoencoder.grid, c.autoencoder.grid, c.autoencoder.latent_channels)
        return Painting(shape=shape, free=c.free, steps=c.steps, **methods)

    def dropped(
        self, condition: Float[Array, "B M K"], seed: UInt32[Array, " B"]
    ) -> Float[Array, "B M K"]:
        """The vectors, or zeros: of each picture by its seed."""
        gone = draws.uniform(draws.keys_of(seed, "condition")) < self.config.drop
        return jnp.where(gone[:, None, None], 0.0, condition)

    def predict(
        self,
        params: Params,
        latents: Float[Array, "B h w C"],
        timestep: Float[Array, " B"],
        condition: Float[Array, "B M K"],
    ) -> Float[Array, "B h w C"]:
        """What `config.prediction` names, of noised latents. Float32."""
        p = {"params": params["unet"]}
        return self.unet.apply(p, latents, timestep, condition.astype(self.dtype))

    def errors(
        self,
        params: Params,
        moments: Float[Array, "B h w moments"],
        condition: Float[Array, "B M K"],
        seed: UInt32[Array, " B"],
    ) -> tuple[Float[Array, " B"], Int[Array, " B"]]:
        """Of each picture the mean square error of its noise, and the timestep of that.

        Latents, noise and timestep are functions of the picture's seed.
        """
        c = self.config
        latents = self.drawn_latents(moments, seed)
        timestep = draw_timesteps(seed, jnp.full(seed.shape, c.schedule.num_train_timesteps))
        noise, level = draw_noise(seed, latents.shape[1:]), c.schedule.level(timestep)
        noised = add_noise(latents, noise, level)
        found = self.predict(params, noised, timestep.astype(jnp.float32), condition)
        wanted = target(c.prediction, latents, noise, level)
        return jnp.mean(jnp.square(found - wanted), axis=(1, 2, 3)), timestep

    def sampler_of(self, steps: int) -> Sampler:
        """Of `steps` denoising steps."""
        return self.config.make_sampler(steps)

    def costs(self, painted: str, encoded: str, tokens: int) -> tuple[Cost, ...]:
        """Of the U-Net, and of the encoder of latents.

        Args:
          painted, encoded: units, of pictures that are noised, and that are encoded in the step.
          tokens: M, of a picture's condition.
        """
        u, ae = self.config.unet, self.config.autoencoder
        return (
            Cost("U-Net", "adaptor", "unet", painted, float(u.flops_per_image(tokens))),
            Cost("autoencoder", "tower", "autoencoder", encoded,
                 float(ae.encode_flops_per_image()), backward=False),
        )  # fmt: skip

"""Transfusion: next-token prediction and diffusion in one decoder (arXiv 2408.11039).

An image stands in the row as patches of a noised latent; its positions see each other whole, all
else is causal (section 3). Text is learned by next-token cross-entropy, an image by the noise that
was added to it: `L = L_LM + lambda L_DDPM`, lambda = 5, one noise level an image (section 3, 4.1).
Where an image stands before its caption its noise is limited (table 8). Begin-of-image is learned
like any word, so that the model draws when it says so; end-of-image follows by rule.

Our choices, where the paper is silent: documents of a row do not see each other; the noise loss is
a mean over the elements of an image, then over images; the position of the last patch does not
predict end-of-image; an unconditional image has an empty prompt.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from unijax.core import cost
from unijax.core.batch import ImageSlots, Kind, PackedBatch, Target
from unijax.core.bounds import NOT_NEGATIVE, check_numbers
from unijax.core.cost import Cost
from unijax.core.errors import UserError
from unijax.core.keys import named
from unijax.core.making import InPlace
from unijax.core.stream import Layout, Mark, Stream
from unijax.core.system import Encoded, Loss, Metrics, Params, Recipe, Sums
from unijax.models import autoencoder, llama, unet
from unijax.models.autoencoder import AutoencoderConfig, Posterior
from unijax.models.latent_patches import LatentPatches, LatentPatchesConfig
from unijax.models.llama import LlamaConfig
from unijax.models.unet import PatchUNet, UNetConfig
from unijax.ops import rows
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
from unijax.systems.language import Language, mean_of
from unijax.systems.latents import ImageLatents, check_variances, noise_loss
from unijax.systems.slots import values_of

IMAGE = "image"  # the one array of slots: images to read and to make are the same to this system


@dataclasses.dataclass(frozen=True)
class TransfusionConfig:
    """Sizes of the parts, and the objective.

    Attributes:
      text: the decoder.
      autoencoder: of pictures and latents; frozen.
      patches, unet: the layers between latents and the decoder, one of the two.
      schedule: of the noise.
      prediction: what the layers say of noised latents: "epsilon", their noise, as published, or
        "v_prediction", whose loss does not fade where noise is all that is seen.
      noise_weight: lambda of the noise loss.
      read_limit: largest noise of an image that stands before its text; table 8 has 0.5.
      sampler: of `ops.diffusion`.
      steps: of denoising.
      guidance: of drawing.
      head_chunk: positions of a device whose logits exist at one time.

    Raises:
      UserError: layers that do not fit the autoencoder, numbers out of range, or a sampler that
        cannot draw so.
    """

    text: LlamaConfig
    autoencoder: AutoencoderConfig
    patches: LatentPatchesConfig | None = None
    unet: UNetConfig | None = None
    schedule: NoiseSchedule = NoiseSchedule()  # noqa: RUF009 (frozen)
    prediction: str = EPSILON
    noise_weight: float = 5.0
    read_limit: float = 0.5
    sampler: str = "ddpm"
    steps: int = 250
    guidance: float = 3.0
    head_chunk: int = 512

    def __post_init__(self):
        if (self.patches is None) == (self.unet is None):
            raise UserError(
                "model.patches, model.unet", "both" if self.patches else "neither",
                "one of them", "Set the other to None.",
            )  # fmt: skip
        if self.unet is not None and (self.unet.mid_block or self.unet.cross_attention_dim):
            raise UserError(
                "model.unet", f"mid_block={self.unet.mid_block}, "
                f"cross_attention_dim={self.unet.cross_attention_dim}", "False and 0",
                "Set them: the decoder is what stands in the middle, and there is no context.",
            )  # fmt: skip
        ae = self.autoencoder
        part = "unet" if self.patches is None else "patches"
        for name, found, expected, where in (
            ("size", self._latents[0], ae.grid, "grid: image_size over its downsampling"),
            ("channels", self._latents[1], ae.latent_channels, "latent_channels"),
        ):
            if found != expected:
                raise UserError(
                    f"model.{part}: {name} of the latents", f"{found}",
                    f"{expected}, model.autoencoder's {where}", "Change one of them.",
                )  # fmt: skip
        check_numbers(self, "model", {"noise_weight": NOT_NEGATIVE, "guidance": NOT_NEGATIVE})
        check_prediction("model.prediction", self.prediction, (EPSILON, V))
        if not 0 < self.read_limit <= 1:
            found, expected = f"{self.read_limit}", "above 0, and at most 1"
            raise UserError("model.read_limit", found, expected, "Change it.")
        check_variances("model.schedule", self.schedule)
        self.make_sampler(self.steps)  # refuses what it could not draw with

    def make_sampler(self, steps: int) -> Sampler:
        """Of `steps` denoising steps."""
        return make_sampler(self.sampler, self.schedule, steps, prediction_type=self.prediction)

    @property
    def _latents(self) -> tuple[int, int]:
        """Side and channels of the latents that the image layers are made for."""
        if self.patches is not None:
            return self.patches.latent_size, self.patches.latent_channels
        if self.unet.in_channels != self.unet.out_channels:
            raise UserError(
                "model.unet.out_channels", f"{self.unet.out_channels}",
                f"in_channels={self.unet.in_channels}", "Change one of them.",
            )  # fmt: skip
        return self.unet.sample_size, self.unet.in_channels

    @property
    def num_tokens(self) -> int:
        """Positions of an image."""
        return self.patches.num_tokens if self.patches is not None else self.unet.grid**2

    def image_flops(self) -> float:
        """Of the image layers, both ways, for an image."""
        width = self.text.hidden_size
        if self.patches is not None:
            return float(self.patches.flops_per_image(width))
        through = 2 * 2 * self.num_tokens * self.unet.block_out_channels[-1] * width
        return float(self.unet.flops_per_image() + through)


@dataclasses.dataclass(frozen=True)
class Transfusion(ImageLatents, Language):
    """The recipe.

    Parameter groups: `language_model`, `image_layers`, and `autoencoder`, which stages freeze.

    Attributes:
      config: sizes.
      dtype: of compute.
      param_dtype: of stored, trained parameters.
      remat: of the decoder's layers: "none", "dots" or "full".
    """

    config: TransfusionConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    remat: str = "none"

    encoders = frozenset({"autoencoder"})
    keeps = ("autoencoder/",)
    rows_alone = True
    sees_whole = (Kind.GEN,)
    unused = ("autoencoder/decoder", "autoencoder/post_quant_conv")

    @property
    def layout(self) -> Layout:
        n, side = self.config.num_tokens, self.config.autoencoder.image_size
        marks = {"before": Mark("boi", learned=True), "unconditional": "empty"}

        def stream(role: str, target: Target, t_max: float) -> Stream:
            return Stream(
                role, IMAGE, Kind.GEN, n, side, target=target, answers=(0, 0),
                t_max=t_max, **marks,
            )  # fmt: skip

        return Layout(
            (
                stream("und", Target.NOISE, self.config.read_limit),
                stream("gen", Target.NOISE, 1.0),
                stream("source", Target.NONE, 0.0),
            )
        )

    @property
    def encoded(self) -> dict[str, Encoded]:
        return {IMAGE: self.moments}

    @property
    def losses(self) -> dict[str, Loss]:
        return {
            "text": Loss("nats a token", "text", "text"),
            "understanding": Loss("nats a token", "und", "text after an image"),
            "prompt": Loss("nats a token", "gen", "text before an image"),
            "noise": Loss("MSE", "gen", "noise of images"),
        }

    @property
    def maker(self) -> InPlace:
        c = self.config
        shape = (c.autoencoder.grid, c.autoencoder.grid, c.autoencoder.latent_channels)
        return InPlace(
            "gen", c.num_tokens, shape, "embed_latents", "predict_noise", "sampler_of",
            "encode_latents", "decode_latents", "autoencoder", "carried_latents",
            c.steps, c.guidance,
        )  # fmt: skip

    @property
    def head_dims(self) -> dict[str, int]:
        """Width of a head of attention, by group (`train.mup`)."""
        return {"language_model": self.config.text.head_dim}

    @property
    def image_layers(self) -> LatentPatches | PatchUNet:
        width = self.config.text.hidden_size
        if self.config.patches is not None:
            return LatentPatches(self.config.patches, width, **self._kinds)
        return PatchUNet(self.config.unet, width, self.remat, **self._kinds)

    def init(self, key: Array) -> Params:
        """Fresh parameters, boxed with logical names."""
        ids = jnp.zeros((1, 1), jnp.int32)
        latent = jnp.zeros((1, *self.maker.shape), self.dtype)
        one = jnp.zeros(1)
        parts = {
            "language_model": lambda k: self.language_model.init(k, ids, method="init_all"),
            "image_layers": lambda k: self.image_layers.init(k, latent, one),
            "autoencoder": self.init_autoencoder,
        }
        return {name: fn(named(key, name))["params"] for name, fn in parts.items()}

    # Pictures and latents

    def _latents(self, params: Params, batch: PackedBatch) -> Float[Array, "B I h w C"]:
        """Scaled latents: drawn from their distribution where they are noised, else its mean."""
        slots = batch.images[IMAGE]
        posterior = Posterior.of(jax.lax.stop_gradient(values_of(self, params, batch, IMAGE)))
        noised = (slots.t_max > 0)[..., None, None, None]
        latents = jnp.where(noised, posterior.sample(slots.seed), posterior.mean)
        return self.config.autoencoder.scaled(latents)

    def _share(self, batch: PackedBatch) -> Float[Array, "B I"]:
        """Of every image its share in the noise loss: the mean weight of its positions."""
        if IMAGE not in batch.images:
            return jnp.zeros((batch.tokens.shape[0], 0))
        here, slots = batch.target_kind == Target.NOISE, batch.images[IMAGE].weight.shape[1]
        weight = batch.weight[..., None]
        of_tokens = rows.collect(weight, batch.target, here, (slots, self.config.num_tokens))
        return jnp.mean(of_tokens, axis=(2, 3))

    def timesteps(self, slots: ImageSlots) -> Int[Array, "B I"]:
        """Of every image, from its seed and its limit; -1 for clean ones."""
        steps = self.config.schedule.num_train_timesteps
        return draw_timesteps(slots.seed, jnp.round(slots.t_max * steps).astype(jnp.int32))

    # Inputs

    def embed_latents(
        self, params: Params, latents: Float[Array, "B h w C"], timestep: Float[Array, "B"]
    ) -> tuple[Float[Array, "B N D"], Any]:
        """Patches as the decoder takes them, and what `predict_noise` wants back.

        Args:
          timestep: of the schedule, -1 for clean pictures. The layers are told the paper's, which
            is 0 for these.
        """
        p = {"params": params["image_layers"]}
        told = timestep + 1.0
        return self.image_layers.apply(p, latents, told, method="down")

    def predict_noise(
        self,
        params: Params,
        hidden: Float[Array, "B N D"],
        skips: Any,
        timestep: Float[Array, "B"],
    ) -> Float[Array, "B h w C"]:
        """The noise of latents, or what else `config.prediction` names, from the hidden states of
        their patches. Float32."""
        p = {"params": params["image_layers"]}
        told = timestep + 1.0
        return self.image_layers.apply(p, hidden, told, skips, method="up")

    def sampler_of(self, steps: int) -> Sampler:
        """Of `steps` denoising steps."""
        return self.config.make_sampler(steps)

    def embed(self, params: Params, batch: PackedBatch) -> Float[Array, "B T D"]:
        """Every position's embedding, images noised as their slots say."""
        return self._embed(params, batch)[0]

    def _embed(self, params: Params, batch: PackedBatch):
        x = self.embed_text(params, jnp.where(batch.kind == Kind.TEXT, batch.tokens, 0))
        if IMAGE not in batch.images:
            return x, None
        slots = batch.images[IMAGE]
        timestep = self.timesteps(slots)
        clean = self._latents(params, batch)
        noise = draw_noise(slots.seed, clean.shape[2:])
        level = self.config.schedule.level(timestep)
        noised = add_noise(clean, noise, level)
        b, i = timestep.shape
        flat = noised.reshape(b * i, *noised.shape[2:])
        of_images = timestep.reshape(-1).astype(jnp.float32)
        tokens, skips = self.embed_latents(params, flat, of_images)
        tokens = tokens.reshape(b, i, *tokens.shape[1:])
        x = rows.place(x, tokens, batch.tokens, batch.kind == Kind.GEN)
        return x, (target(self.config.prediction, clean, noise, level), timestep, skips)

    # What the loop knows

    def weights(self, batch: PackedBatch) -> Sums:
        """Text is a mean over its target tokens, noise one over images (section 3)."""
        text = jnp.sum(jnp.where(batch.target_kind == Target.TEXT, batch.weight, 0.0))
        return {"text": text, "noise": self._share(batch).sum()}

    def _texts(self, batch: PackedBatch) -> dict[str, Array]:
        """The text that is learned, by the name of its loss."""
        text = batch.target_kind == Target.TEXT
        return {name: text & here for name, here in rows.beside_images(batch, Kind.GEN).items()}

    def counts(self, batch: PackedBatch) -> Metrics:
        """Tokens and targets by kind, images, documents, and the share of padding."""
        learned = self._texts(batch) | {"noise": batch.target_kind == Target.NOISE}
        return rows.counts(batch, self.layout, learned)

    def loss(
        self,
        params: Params,
        batch: PackedBatch,
        key: Array | None,
        step: Array,
        frozen: frozenset[str],
    ) -> tuple[Sums, Metrics]:
        """Summed cross-entropy of the text head, and lambda times the noise's mean square error.

        The metric `noise/loss` is of all images, `noise/loss/q0` to `q3` of the quarters of the
        schedule from little noise to much.
        """
        del step
        x, images = self._embed(params, batch)  # its randomness belongs to the images
        hidden = self.states(params, x, batch, key)
        text, weight = self.text_loss(params, hidden, batch, frozen)
        sums, metrics = {"text": text.sum, "noise": jnp.zeros(())}, {}
        for name, here in self._texts(batch).items():
            metrics |= mean_of(name, text, jnp.where(here, weight, 0.0))
        if images is None:
            return sums, metrics
        wanted, timestep, skips = images
        b, i = timestep.shape
        at = batch.kind == Kind.GEN
        tokens = rows.collect(hidden, batch.tokens, at, (i, self.config.num_tokens))
        flat = tokens.reshape(b * i, *tokens.shape[2:])
        of_images = timestep.reshape(-1).astype(jnp.float32)
        predicted = self.predict_noise(params, flat, skips, of_images)
        error = jnp.mean(jnp.square(predicted.reshape(wanted.shape) - wanted), axis=(2, 3, 4))
        found, of_noise = noise_loss(error, self._share(batch), timestep, self.config.schedule)
        sums["noise"] = self.config.noise_weight * found
        return sums, metrics | of_noise

    def amounts(self, batch: PackedBatch, as_causal: bool = False) -> dict[str, Array]:
        return rows.amounts(batch, self.layout, self.sees_whole, as_causal)

    @property
    def costs(self) -> tuple[Cost, ...]:
        c = self.config
        return (
            *c.text.costs("language_model"),
            Cost("image layers", "adaptor", "image_layers", cost.images_of(IMAGE), c.image_flops()),
            Cost("autoencoder", "tower", "autoencoder", cost.encoded_of(IMAGE),
                 float(c.autoencoder.encode_flops_per_image()), backward=False),
        )  # fmt: skip

    @property
    def modalities(self) -> dict[str, dict[str, float]]:
        each = 1 / self.config.num_tokens
        image = {cost.images_of(IMAGE): each, cost.encoded_of(IMAGE): each}
        return {
            "text": {cost.TOKENS: 1.0, cost.targets("text"): 1.0},
            "patches": {cost.TOKENS: 1.0} | image,
        }

    @property
    def lookups(self) -> dict[str, str]:
        return {"language_model/embed_tokens/embedding": cost.TOKENS}


def _published(size: str, layers: str) -> TransfusionConfig:
    ae, text = autoencoder.SIZES["transfusion_vae"], llama.SIZES[f"transfusion_{size}"]
    if layers == "linear":
        return TransfusionConfig(text, ae, patches=LatentPatchesConfig())
    return TransfusionConfig(text, ae, unet=unet.TRANSFUSION[2])


# Table 2 of the paper, with 2 x 2 latents a patch; other patches are in configs/transfusion.py.
SIZES = {
    f"transfusion_{size}_{layers}": _published(size, layers)
    for size in ("0.16b", "0.37b", "0.76b", "1.4b", "7b")
    for layers in ("linear", "unet")
}

RECIPE = Recipe(
    "transfusion",
    Transfusion,
    TransfusionConfig,
    "rows",
    SIZES,
    "unijax.systems.transfusion_ladders:LADDERS",
)

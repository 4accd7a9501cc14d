"""KL image autoencoder: pixels to a grid of normal distributions, and latents back to pixels.

Sources: arXiv 2112.10752 (section 3.1, appendix G), CompVis/latent-diffusion's `AutoencoderKL`,
after whose first form the parameters are called, and diffusers' `AutoencoderKL`, whose weights fit
(`interop.diffusers_parts`). Stable Diffusion's has 4 latent channels, Transfusion's 8.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, UInt32

from unijax.core.errors import UserError
from unijax.core.record import added
from unijax.nn.conv_autoencoder import ConvCost, Decoder, Encoder, Levels, add_costs, conv_cost
from unijax.nn.layers import Conv
from unijax.ops import draws

LOG_VARIANCES = (-30.0, 20.0)  # held between


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """Shape of an autoencoder. Field names but the first are those of diffusers' `AutoencoderKL`.

    Raises:
      UserError: channels that group norm cannot divide, an image that does not halve evenly, or a
        scale that is not positive.
    """

    image_size: int = 512  # pixels of a side
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)  # per level, finest first
    layers_per_block: int = 2  # of the encoder; the decoder has one more
    use_quant_conv: bool = True  # a 1x1 convolution after the encoder
    use_post_quant_conv: bool = True  # and one before the decoder
    scaling_factor: float = 0.18215  # of latents for a diffusion model, after the shift
    shift_factor: float = 0.0  # taken from latents
    kind: str = added("kl")

    def __post_init__(self):
        self.levels.check("AutoencoderConfig.block_out_channels", "AutoencoderConfig.image_size")
        if self.layers_per_block < 1:
            raise UserError(
                "AutoencoderConfig.layers_per_block",
                f"{self.layers_per_block}",
                "at least 1: a level's first block brings it to its channels",
                "Change it.",
            )
        if self.scaling_factor <= 0:
            raise UserError(
                "AutoencoderConfig.scaling_factor",
                f"{self.scaling_factor}",
                "a positive number, about 1 over the standard deviation of the latents",
                "Correct it.",
            )

    @property
    def levels(self) -> Levels:
        """Shape of the encoder and the decoder."""
        return Levels(
            image_size=self.image_size,
            stem=self.block_out_channels[0],
            channels=self.block_out_channels,
            blocks=self.layers_per_block,
            attention=False,
        )

    @property
    def downsampling(self) -> int:
        """Pixels of a latent's side."""
        return self.levels.downsampling

    @property
    def grid(self) -> int:
        """Latents of a side."""
        return self.levels.grid

    def scaled(self, latents: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Latents as diffusion models see them, of variance about 1."""
        return (latents - self.shift_factor) * self.scaling_factor

    def unscaled(self, latents: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The inverse of `scaled`."""
        return latents / self.scaling_factor + self.shift_factor

    def count_parameters(self) -> int:
        return self._encoder_cost.parameters + self._decoder_cost.parameters

    def encode_flops_per_image(self) -> int:
        """Of convolutions and products; 2 per multiply-add."""
        return self._encoder_cost.flops

    def decode_flops_per_image(self) -> int:
        """Of convolutions and products; 2 per multiply-add."""
        return self._decoder_cost.flops

    @property
    def _encoder_cost(self) -> ConvCost:
        both = 2 * self.latent_channels
        into = [conv_cost(1, both, both, self.grid)] * self.use_quant_conv
        return add_costs(self.levels.encoder_cost(both), *into)

    @property
    def _decoder_cost(self) -> ConvCost:
        c = self.latent_channels
        out = [conv_cost(1, c, c, self.grid)] * self.use_post_quant_conv
        return add_costs(*out, self.levels.decoder_cost(c))


SIZES = {
    "sd_vae": AutoencoderConfig(),
    # Its paper gives no scale: what a trained one has is measured.
    "transfusion_vae": AutoencoderConfig(image_size=256, latent_channels=8, scaling_factor=1.0),
    # The shipped one (configs/kl_demo.py); of its latents of 512 shipped pictures the mean is 0.679
    # and the standard deviation 1 / 0.516.
    "kl_demo": AutoencoderConfig(
        image_size=64,
        latent_channels=8,
        block_out_channels=(32, 32, 64, 64),
        layers_per_block=1,
        scaling_factor=0.516,
        shift_factor=0.679,
    ),
    "kl_test": AutoencoderConfig(
        image_size=16, block_out_channels=(32, 64), layers_per_block=1, scaling_factor=1.0
    ),
}


@flax.struct.dataclass
class Posterior:
    """A normal distribution for each number of pictures' latents; `*batch` is often B."""

    mean: Any  # float32 [*batch, h, w, c]
    log_variance: Any  # float32 [*batch, h, w, c]

    @classmethod
    def of(cls, moments: Float[Array, "*batch h w both"]) -> "Posterior":
        """From what `moments` gives: means in the first half of the channels."""
        mean, log_variance = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        return cls(mean, jnp.clip(log_variance, *LOG_VARIANCES))

    def moments(self) -> Float[Array, "*batch h w both"]:
        """As one array, float32."""
        return jnp.concatenate([self.mean, self.log_variance], axis=-1)

    def sample(self, seed: UInt32[Array, "*batch"]) -> Float[Array, "*batch h w c"]:
        """A draw, of each picture a function of its seed."""
        noise = draws.normal(draws.keys_of(seed, "latent"), self.mean.shape[seed.ndim :])
        return self.mean + jnp.exp(0.5 * self.log_variance) * noise

    def kl(self) -> Float[Array, "*batch"]:
        """Divergence from the standard normal in nats, summed over a picture's latents."""
        terms = self.mean**2 + jnp.exp(self.log_variance) - 1.0 - self.log_variance
        return 0.5 * jnp.sum(terms, axis=(-3, -2, -1))


class AutoencoderKL(nn.Module):
    """The autoencoder. `init` through `__call__`, which reaches every parameter.

    Pixels are floats in -1..1, `[B, height, width, 3]`, with sides that the levels halve evenly.
    """

    config: AutoencoderConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        cfg, kinds = self.config, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.encoder = Encoder(cfg.levels, 2 * cfg.latent_channels, **kinds)
        if cfg.use_quant_conv:
            self.quant_conv = Conv(2 * cfg.latent_channels, 1, **kinds)
        if cfg.use_post_quant_conv:
            self.post_quant_conv = Conv(cfg.latent_channels, 1, **kinds)
        self.decoder = Decoder(cfg.levels, **kinds)

    def encode(self, pixels: Float[Array, "B height width 3"]) -> Posterior:
        """The distribution of a picture's latents, not scaled."""
        h = self.encoder(pixels.astype(self.dtype))
        if self.config.use_quant_conv:
            h = self.quant_conv(h)
        return Posterior.of(h)

    def decode(self, latents: Float[Array, "B h w c"]) -> Float[Array, "B height width 3"]:
        """Pixels, float32, about -1..1 (not clipped), of latents that are not scaled."""
        z = latents.astype(self.dtype)
        if self.config.use_post_quant_conv:
            z = self.post_quant_conv(z)
        return self.decoder(z).astype(jnp.float32)

    def __call__(
        self, pixels: Float[Array, "B height width 3"], seed: UInt32[Array, " B"]
    ) -> tuple[Float[Array, "B height width 3"], Posterior]:
        """A training pass: the pixels of drawn latents, and their distribution."""
        posterior = self.encode(pixels)
        return self.decode(posterior.sample(seed)), posterior

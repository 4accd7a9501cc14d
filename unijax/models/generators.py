"""What draws a latent picture from vectors: a diffusion network and its autoencoder, of any kind.

A config says `kind`: "sana" or "unet" of the network, "kl" or "dc" of the autoencoder. Recipes see
one face: a prediction from noised latents, a timestep and a context, and latents of pictures.
"""

import dataclasses

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, UInt32

from unijax.core.errors import UserError
from unijax.core.mesh import ROWS, WHOLE, lay
from unijax.core.system import Params
from unijax.models.autoencoder import AutoencoderConfig, AutoencoderKL, Posterior
from unijax.models.dc_autoencoder import AutoencoderDC, DCAutoencoderConfig
from unijax.models.sana import Sana, SanaConfig
from unijax.models.unet import UNet, UNetConfig

# The first of each is meant where a config says no kind.
GeneratorConfig = UNetConfig | SanaConfig
LatentsConfig = AutoencoderConfig | DCAutoencoderConfig


@dataclasses.dataclass(frozen=True)
class Generator:
    """A diffusion network, without its parameters.

    Attributes:
      config: sizes, and the kind.
      remat: of its layers: "none", "dots" or "full" (`nn.stack`).
    """

    config: GeneratorConfig
    remat: str = "none"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @property
    def module(self) -> Sana | UNet:
        of = {SanaConfig: Sana, UNetConfig: UNet}
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return of[type(self.config)](self.config, remat=self.remat, **kinds)

    @property
    def name(self) -> str:
        """What people call it."""
        return "Sana" if isinstance(self.config, SanaConfig) else "U-Net"

    @property
    def width(self) -> int:
        """Of the context that it reads."""
        c = self.config
        return c.caption_channels if isinstance(c, SanaConfig) else c.cross_attention_dim

    def init(self, key: Array) -> Params:
        """Fresh `{"params": ...}`, boxed with logical names."""
        c = self.config
        latent = jnp.zeros((1, c.sample_size, c.sample_size, c.in_channels), self.dtype)
        context = jnp.zeros((1, 1, self.width), self.dtype)
        return self.module.init(key, latent, jnp.zeros(1), context)

    def __call__(
        self,
        params: Params,
        latents: Float[Array, "B h w C"],
        timestep: Float[Array, " B"],
        context: Float[Array, "B M K"],
    ) -> Float[Array, "B h w C"]:
        """What is predicted of noised latents, float32. `params` are its own alone."""
        return self.module.apply({"params": params}, latents, timestep, context.astype(self.dtype))


@dataclasses.dataclass(frozen=True)
class Latents:
    """An autoencoder, without its parameters.

    Attributes:
      config: sizes, and the kind.
    """

    config: LatentsConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @property
    def module(self) -> AutoencoderKL | AutoencoderDC:
        of = {AutoencoderConfig: AutoencoderKL, DCAutoencoderConfig: AutoencoderDC}
        return of[type(self.config)](self.config, dtype=self.dtype, param_dtype=self.param_dtype)

    @property
    def _is_drawn(self) -> bool:
        """Whether a picture's latents are a distribution."""
        return isinstance(self.config, AutoencoderConfig)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a latent picture."""
        c = self.config
        return c.grid, c.grid, c.latent_channels

    @property
    def encoded_shape(self) -> tuple[int, int, int]:
        """Of what `encode` makes of a picture."""
        height, width, channels = self.shape
        return height, width, 2 * channels if self._is_drawn else channels

    @property
    def unused(self) -> tuple[str, ...]:
        """Paths, within its parameters, that no picture's latents need."""
        both = "decoder", "post_quant_conv"
        return both if getattr(self.config, "use_post_quant_conv", False) else both[:1]

    def init(self, key: Array) -> Params:
        """Fresh `{"params": ...}`, boxed with logical names."""
        side = self.config.image_size
        picture = jnp.zeros((1, side, side, 3), self.dtype)
        seed = (jnp.zeros(1, jnp.uint32),) if self._is_drawn else ()
        return self.module.init(key, picture, *seed)

    def encode(
        self, params: Params, pixels: Float[Array, "B height width 3"]
    ) -> Float[Array, "B h w both"]:
        """Latents of pictures in -1..1, or the moments of their distribution; not scaled."""
        found = self.module.apply({"params": params}, pixels, method="encode")
        found = found.moments() if self._is_drawn else found
        return lay(found, ROWS, WHOLE, WHOLE, WHOLE)  # the encoder spreads its images

    def scaled(
        self, encoded: Float[Array, "*batch h w both"], seed: UInt32[Array, "*batch"] | None = None
    ) -> Float[Array, "*batch h w C"]:
        """Latents as the generator sees them, of what `encode` gave.

        Args:
          seed: of each picture, by which its latents are drawn; None takes their means.
        """
        if self._is_drawn:
            posterior = Posterior.of(encoded)
            encoded = posterior.mean if seed is None else posterior.sample(seed)
        return self.config.scaled(encoded)

    def decode(
        self, params: Params, latents: Float[Array, "B h w C"]
    ) -> Float[Array, "B height width 3"]:
        """Pixels in -1..1 (not clipped) of scaled latents."""
        unscaled = self.config.unscaled(latents)
        return self.module.apply({"params": params}, unscaled, method="decode")


def check_latents(where: str, network: GeneratorConfig, of: str, latents: LatentsConfig) -> None:
    """Raises a UserError for a network that was not made for the latents of the autoencoder.

    Args:
      where, of: what the two are called in configs.
    """
    for name, found, expected in (
        ("sample_size", network.sample_size, latents.grid),
        ("in_channels", network.in_channels, latents.latent_channels),
        ("out_channels", network.out_channels, latents.latent_channels),
    ):
        if found != expected:
            raise UserError(
                f"{where}.{name}", f"{found}",
                f"{expected}: latents of {of}, whose pictures are of {latents.image_size} pixels",
                "Change one of them.",
            )  # fmt: skip


def check_fit(generator: GeneratorConfig, latents: LatentsConfig) -> None:
    """As `check_latents`, and for a U-Net that reads no condition."""
    check_latents("model.generator", generator, "model.autoencoder", latents)
    if isinstance(generator, UNetConfig) and not (
        generator.mid_block and generator.cross_attention_dim
    ):
        raise UserError(
            "model.generator",
            f"mid_block={generator.mid_block}, "
            f"cross_attention_dim={generator.cross_attention_dim}",
            "True, and the width of the condition", "Take a whole U-Net that reads a context.",
        )  # fmt: skip

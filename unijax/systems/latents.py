"""What recipes share whose pictures are latents of a KL autoencoder, with its parameters under
`autoencoder`."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, UInt32

from unijax.core.errors import UserError
from unijax.core.mesh import ROWS, WHOLE, lay
from unijax.core.system import Encoded, Metrics, Params
from unijax.models import autoencoder
from unijax.models.autoencoder import AutoencoderKL, Posterior
from unijax.ops.diffusion import NoiseSchedule
from unijax.ops.diffusion.schedule import BETA_SCHEDULES


def noise_loss(
    error: Float[Array, "*b"],
    weight: Float[Array, "*b"],
    timestep: Int[Array, "*b"],
    schedule: NoiseSchedule,
) -> tuple[Float[Array, ""], Metrics]:
    """Summed errors of the noise of pictures, each by its weight, and metrics of them.

    `noise/loss` is of all, `noise/loss/q0` to `q3` of the quarters of the schedule from little
    noise to much.
    """
    total = jnp.sum(weight * error)
    metrics = {"noise/loss": (total, jnp.sum(weight))}
    quarter = timestep * 4 // schedule.num_train_timesteps
    for q in range(4):
        some = jnp.where(quarter == q, weight, 0.0)
        metrics[f"noise/loss/q{q}"] = (jnp.sum(some * error), jnp.sum(some))
    return total, metrics


def check_variances(where: str, schedule: NoiseSchedule) -> None:
    """Raises UserError for a flow, which neither the noise nor v, that are learned, belong to."""
    if schedule.is_flow:
        raise UserError(
            f"{where}.kind", repr(schedule.kind), f"one of {[*BETA_SCHEDULES]}", "Correct it."
        )


class ImageLatents:
    """Of a recipe, or a part of one, with `config.autoencoder`, `dtype`, `param_dtype`."""

    @property
    def autoencoder(self) -> AutoencoderKL:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return AutoencoderKL(self.config.autoencoder, **kinds)

    @property
    def moments(self) -> Encoded:
        """What a cache may hold of a picture: the distribution of its latents."""
        ae = self.config.autoencoder
        shape = (ae.grid, ae.grid, 2 * ae.latent_channels)
        return Encoded("autoencoder", "latents", shape, "float32", "encode_moments")

    def init_autoencoder(self, key: Array) -> Params:
        """Fresh `{"params": ...}`, boxed with logical names."""
        side = self.config.autoencoder.image_size
        picture = jnp.zeros((1, side, side, 3), self.dtype)
        return self.autoencoder.init(key, picture, jnp.zeros(1, jnp.uint32))

    def encode_moments(
        self, params: Params, pixels: Float[Array, "B height width 3"]
    ) -> Float[Array, "B h w moments"]:
        """Means and log-variances of the latents of pictures in [-1, 1]."""
        p = {"params": params["autoencoder"]}
        moments = self.autoencoder.apply(p, pixels, method="encode").moments()
        return lay(moments, ROWS, WHOLE, WHOLE, WHOLE)  # the encoder spreads its images

    def encode_latents(
        self, params: Params, pixels: Float[Array, "B height width 3"]
    ) -> Float[Array, "B h w C"]:
        """Scaled latents of pictures in [-1, 1], their means."""
        moments = self.encode_moments(params, pixels)
        return self.config.autoencoder.scaled(Posterior.of(moments).mean)

    def drawn_latents(
        self, moments: Float[Array, "*batch h w moments"], seed: UInt32[Array, "*batch"]
    ) -> Float[Array, "*batch h w C"]:
        """Scaled latents drawn from their distribution, of each picture by its seed."""
        posterior = Posterior.of(jax.lax.stop_gradient(moments))
        return self.config.autoencoder.scaled(posterior.sample(seed))

    def decode_latents(
        self, params: Params, latents: Float[Array, "B h w C"]
    ) -> Float[Array, "B height width 3"]:
        """Pixels in [-1, 1] (not clipped) of scaled latents."""
        p = {"params": params["autoencoder"]}
        return self.autoencoder.apply(p, self.config.autoencoder.unscaled(latents), method="decode")

    def carried_latents(
        self, params: Params, latents: Float[Array, "B h w C"]
    ) -> Float[Array, "B h w moments"]:
        """Of scaled latents, themselves as means that are certain."""
        del params
        mean = self.config.autoencoder.unscaled(latents)
        return Posterior(mean, jnp.full_like(mean, autoencoder.LOG_VARIANCES[0])).moments()

"""Ancestral sampling of diffusion models (arXiv 2006.11239, equations 6 and 7).

Equal to diffusers' `DDPMScheduler`, whose flags these are.
"""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from unijax.ops.diffusion import grid
from unijax.ops.diffusion.noising import EPSILON, SAMPLE, V, check_prediction, picture_and_noise
from unijax.ops.diffusion.sampling import State, start
from unijax.ops.diffusion.schedule import Level, NoiseSchedule

VARIANCES = ("fixed_small", "fixed_large")


@dataclasses.dataclass(frozen=True)
class DDPM:
    """One call and fresh noise for each step.

    Attributes:
      variance_type: of what is added: "fixed_small" is the posterior's, "fixed_large" beta itself.
      clip_sample: holds the predicted picture to +-`clip_sample_range`: for pixels, not latents.

    Raises:
      UserError: a number of steps that cannot be, an unknown name, a rectified flow.
    """

    schedule: NoiseSchedule
    num_inference_steps: int
    prediction_type: str = EPSILON
    variance_type: str = "fixed_small"
    clip_sample: bool = False
    clip_sample_range: float = 1.0
    timestep_spacing: str = "leading"
    steps_offset: int = 0

    stochastic = True

    def __post_init__(self):
        grid.check_kind("ddpm", self.schedule, flow=False)
        grid.check_steps("ddpm", self.schedule.num_train_timesteps, self.num_inference_steps)
        check_prediction("ddpm.prediction_type", self.prediction_type, (EPSILON, SAMPLE, V))
        grid.check_choice("ddpm.variance_type", self.variance_type, VARIANCES)
        _ = self.timesteps

    @property
    def calls(self) -> int:
        return self.num_inference_steps

    @functools.cached_property
    def timesteps(self) -> np.ndarray:
        """Int64 [calls]."""
        return grid.whole_timesteps(
            self.timestep_spacing,
            self.schedule.num_train_timesteps,
            self.num_inference_steps,
            self.steps_offset,
            "ddpm",
        )

    @functools.cached_property
    def _tables(self) -> dict[str, np.ndarray]:
        # Float32 as in diffusers: near the picture, 1 less a rounded alpha is mostly rounding.
        kept = self.schedule.alphas_cumprod[self.timesteps]
        kept_next = np.append(kept[1:], np.float32(1))
        alpha = kept / kept_next
        beta, noise, noise_next = 1 - alpha, 1 - kept, 1 - kept_next
        variance = beta
        if self.variance_type == "fixed_small":
            variance = np.maximum(noise_next / noise * beta, np.float32(1e-20))
        return {
            "alpha": kept**0.5,
            "sigma": noise**0.5,
            "of_picture": kept_next**0.5 * beta / noise,
            "of_sample": alpha**0.5 * noise_next / noise,
            "of_noise": np.where(self.timesteps > 0, variance**0.5, 0),
            "timestep": self.timesteps,
        }

    def init(self, noise: Float[Array, "*shape"]) -> State:
        return start(noise)

    def model_input(self, state: State) -> tuple[Float[Array, "*shape"], Float[Array, ""]]:
        return state.sample, grid.at(self._tables, state.call)["timestep"]

    def step(
        self, state: State, output: Float[Array, "*shape"], noise: Float[Array, "*shape"]
    ) -> State:
        here = grid.at(self._tables, state.call)
        level = Level(here["alpha"], here["sigma"])
        picture, _ = picture_and_noise(self.prediction_type, output, state.sample, level)
        if self.clip_sample:
            picture = jnp.clip(picture, -self.clip_sample_range, self.clip_sample_range)
        sample = here["of_picture"] * picture + here["of_sample"] * state.sample
        return State(sample + here["of_noise"] * noise.astype(jnp.float32), state.call + 1)

"""Implicit sampling of diffusion models (arXiv 2010.02502, equations 12 and 16).

Equal to diffusers' `DDIMScheduler`, whose flags these are.
"""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from unijax.core.errors import UserError
from unijax.ops.diffusion import grid
from unijax.ops.diffusion.noising import EPSILON, SAMPLE, V, check_prediction, picture_and_noise
from unijax.ops.diffusion.sampling import State, start
from unijax.ops.diffusion.schedule import Level, NoiseSchedule


@dataclasses.dataclass(frozen=True)
class DDIM:
    """One call for each step; without noise, unless `eta` adds some.

    Attributes:
      eta: 0 is deterministic, 1 as random as DDPM.
      set_alpha_to_one: the last step ends at the picture, not at the level of timestep 0.
      clip_sample: holds the predicted picture to +-`clip_sample_range`: for pixels, not latents.

    Raises:
      UserError: a number of steps that cannot be, an unknown name, a rectified flow.
    """

    schedule: NoiseSchedule
    num_inference_steps: int
    prediction_type: str = EPSILON
    eta: float = 0.0
    set_alpha_to_one: bool = True
    clip_sample: bool = False
    clip_sample_range: float = 1.0
    timestep_spacing: str = "leading"
    steps_offset: int = 0

    def __post_init__(self):
        grid.check_kind("ddim", self.schedule, flow=False)
        grid.check_steps("ddim", self.schedule.num_train_timesteps, self.num_inference_steps)
        check_prediction("ddim.prediction_type", self.prediction_type, (EPSILON, SAMPLE, V))
        if not 0 <= self.eta <= 1:
            raise UserError("ddim.eta", f"{self.eta}", "a number in 0..1", "Correct it.")
        _ = self.timesteps

    @property
    def calls(self) -> int:
        return self.num_inference_steps

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    @functools.cached_property
    def timesteps(self) -> np.ndarray:
        """Int64 [calls]."""
        return grid.whole_timesteps(
            self.timestep_spacing,
            self.schedule.num_train_timesteps,
            self.num_inference_steps,
            self.steps_offset,
            "ddim",
        )

    @functools.cached_property
    def _tables(self) -> dict[str, np.ndarray]:
        kept = self.schedule.alphas_cumprod[self.timesteps]
        kept_next = grid.kept_a_stride_on(
            self.schedule, self.timesteps, self.num_inference_steps, self.set_alpha_to_one
        )
        variance = (1 - kept_next) / (1 - kept) * (1 - kept / kept_next)
        deviation = np.float32(self.eta) * variance**0.5
        return {
            "alpha": kept**0.5,
            "sigma": (1 - kept) ** 0.5,
            "of_picture": kept_next**0.5,
            "of_predicted_noise": (1 - kept_next - deviation**2) ** 0.5,
            "of_noise": deviation,
            "timestep": self.timesteps,
        }

    def init(self, noise: Float[Array, "*shape"]) -> State:
        return start(noise)

    def model_input(self, state: State) -> tuple[Float[Array, "*shape"], Float[Array, ""]]:
        return state.sample, grid.at(self._tables, state.call)["timestep"]

    def step(
        self,
        state: State,
        output: Float[Array, "*shape"],
        noise: Float[Array, "*shape"] | None = None,
    ) -> State:
        here = grid.at(self._tables, state.call)
        level = Level(here["alpha"], here["sigma"])
        picture, predicted = picture_and_noise(self.prediction_type, output, state.sample, level)
        if self.clip_sample:
            picture = jnp.clip(picture, -self.clip_sample_range, self.clip_sample_range)
        sample = here["of_picture"] * picture + here["of_predicted_noise"] * predicted
        if self.stochastic:
            sample += here["of_noise"] * noise.astype(jnp.float32)
        return State(sample, state.call + 1)

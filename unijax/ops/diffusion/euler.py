"""Euler's method, for diffusion models in the variables of arXiv 2206.00364 and for flows.

Equal to diffusers' `EulerDiscreteScheduler` (without churn) and, for a flow,
`FlowMatchEulerDiscreteScheduler`, whose flags these are. What Heun's method shares stands here.
"""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from unijax.core.errors import UserError
from unijax.ops.diffusion import grid
from unijax.ops.diffusion.noising import (
    EPSILON,
    FLOW,
    SAMPLE,
    V,
    check_prediction,
    picture_and_noise,
)
from unijax.ops.diffusion.sampling import State, start
from unijax.ops.diffusion.schedule import Level, NoiseSchedule


@dataclasses.dataclass(frozen=True)
class SigmaGrid:
    """Levels of noise over picture; of a flow, its shares of noise.

    In these variables a diffusion model's noisy picture is `picture + sigma noise`, which its
    network is given scaled to the variance that it was trained with. Both kinds move along
    `d x / d sigma = (x - picture) / sigma`: the noise of a diffusion model, the velocity of a flow.

    Attributes:
      use_karras_sigmas: the levels of arXiv 2206.00364 between the ends of the spaced ones.

    Raises:
      UserError: a number of steps that cannot be, an unknown name, or flags that do not go
        together.
    """

    schedule: NoiseSchedule
    num_inference_steps: int
    prediction_type: str = EPSILON
    use_karras_sigmas: bool = False
    timestep_spacing: str = "linspace"
    steps_offset: int = 0

    stochastic = False

    def __post_init__(self):
        name = self._name
        grid.check_steps(name, self.schedule.num_train_timesteps, self.num_inference_steps)
        allowed = (FLOW,) if self.schedule.is_flow else (EPSILON, SAMPLE, V)
        check_prediction(f"{name}.prediction_type", self.prediction_type, allowed)
        if self.schedule.is_flow and self.use_karras_sigmas:
            raise UserError(
                f"{name}.use_karras_sigmas",
                "true with a flow",
                "false: a flow has levels of its own",
                "Leave it out, or change the noise schedule.",
            )
        _ = self._grid

    @property
    def _name(self) -> str:
        return type(self).__name__.lower()

    @property
    def _final_sigmas_type(self) -> str:
        return "zero"

    @functools.cached_property
    def _grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Timesteps float32 [steps], and levels float32 [steps + 1]."""
        n, train = self.num_inference_steps, self.schedule.num_train_timesteps
        if self.schedule.is_flow:
            sigmas = grid.flow_grid(self.schedule, n)
            timesteps = sigmas * np.float32(train)
        else:
            spacing, offset = self.timestep_spacing, self.steps_offset
            levels = grid.variance_sigmas(self.schedule)
            timesteps = grid.spaced(spacing, train, n, offset, self._name).astype(np.float32)
            sigmas = grid.between(levels, timesteps)
            if self.use_karras_sigmas:
                sigmas = grid.karras(sigmas[0], sigmas[-1], n)
                timesteps = grid.timesteps_of(sigmas, levels)
        sigmas = grid.with_last(sigmas, self._final_sigmas_type, self.schedule, self._name)
        return timesteps.astype(np.float32), sigmas

    @property
    def init_scale(self) -> float:
        """Standard deviation of the first noisy picture."""
        largest = float(self._grid[1].max())
        if self.schedule.is_flow:
            return 1.0
        return largest if self.timestep_spacing != "leading" else (largest**2 + 1) ** 0.5

    def init(self, noise: Float[Array, "*shape"]) -> State:
        return start(noise, self.init_scale)

    def network_input(
        self, sample: Float[Array, "*shape"], sigma: Float[Array, ""]
    ) -> Float[Array, "*shape"]:
        """A noisy picture as the network was trained to see it."""
        return sample if self.schedule.is_flow else sample * (sigma**2 + 1) ** -0.5

    def picture(
        self,
        output: Float[Array, "*shape"],
        sample: Float[Array, "*shape"],
        sigma: Float[Array, ""],
    ) -> Float[Array, "*shape"]:
        """What an output says of the noisy picture; `(sample - picture) / sigma` is the slope."""
        if self.schedule.is_flow:
            return sample - sigma * output.astype(jnp.float32)
        alpha = (sigma**2 + 1) ** -0.5
        level = Level(alpha, sigma * alpha)
        return picture_and_noise(self.prediction_type, output, alpha * sample, level)[0]


@dataclasses.dataclass(frozen=True)
class Euler(SigmaGrid):
    """One call for each step.

    Attributes:
      final_sigmas_type: "zero" ends at the picture, "sigma_min" at the level of timestep 0.
    """

    final_sigmas_type: str = "zero"

    @property
    def _final_sigmas_type(self) -> str:
        return self.final_sigmas_type

    @property
    def calls(self) -> int:
        return self.num_inference_steps

    @property
    def timesteps(self) -> np.ndarray:
        """Float32 [calls]; of "linspace" they may lie between two."""
        return self._grid[0]

    @property
    def sigmas(self) -> np.ndarray:
        """Float32 [calls + 1]."""
        return self._grid[1]

    @functools.cached_property
    def _tables(self) -> dict[str, np.ndarray]:
        return {"timestep": self.timesteps, "sigma": self.sigmas[:-1], "next": self.sigmas[1:]}

    def model_input(self, state: State) -> tuple[Float[Array, "*shape"], Float[Array, ""]]:
        here = grid.at(self._tables, state.call)
        return self.network_input(state.sample, here["sigma"]), here["timestep"]

    def step(
        self,
        state: State,
        output: Float[Array, "*shape"],
        noise: Float[Array, "*shape"] | None = None,
    ) -> State:
        del noise
        here = grid.at(self._tables, state.call)
        picture = self.picture(output, state.sample, here["sigma"])
        slope = (state.sample - picture) / here["sigma"]
        return State(state.sample + (here["next"] - here["sigma"]) * slope, state.call + 1)

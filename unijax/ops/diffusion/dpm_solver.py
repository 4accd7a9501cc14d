"""DPM-Solver++, multistep (arXiv 2211.01095, algorithm 2), for diffusion models and flows.

Equal to diffusers' `DPMSolverMultistepScheduler` with `algorithm_type` "dpmsolver++" or
"sde-dpmsolver++", whose flags these are; a flow is its `use_flow_sigmas`, with `flow_shift`.

The solver integrates the predicted picture. A step is a sum of the picture so far, of the last
predictions and of noise, in proportions that the levels of noise decide beforehand.
"""

import dataclasses
import functools
import math
from typing import Any

import flax.struct
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
from unijax.ops.diffusion.schedule import Level, NoiseSchedule, shifted

ALGORITHMS = ("dpmsolver++", "sde-dpmsolver++")
SOLVERS = ("midpoint", "heun")
FEW_STEPS = 15  # below which the last steps are of lower order


@flax.struct.dataclass
class DPMSolverState(State):
    """Also the last predictions of the picture."""

    history: Any  # float32 [2, ...], the latest first


@dataclasses.dataclass(frozen=True)
class DPMSolver:
    """One call for each step.

    Attributes:
      algorithm_type: "sde-dpmsolver++" adds noise at every step.
      solver_order: 1 to 3; 2 is meant for guided sampling.
      solver_type: of the second order.
      lower_order_final: below 15 steps the last are of lower order.
      euler_at_final: the last step is of first order.
      final_sigmas_type: "zero" ends at the picture, "sigma_min" at the level of timestep 0.
      use_karras_sigmas: the levels of arXiv 2206.00364 instead of a spacing of timesteps.
      lambda_min_clipped: starts no noisier than this log of picture over noise. The cosine schedule
        wants about -5.1.

    Raises:
      UserError: a number of steps that cannot be, an unknown name, or flags that do not go
        together.
    """

    schedule: NoiseSchedule
    num_inference_steps: int
    prediction_type: str = EPSILON
    algorithm_type: str = "dpmsolver++"
    solver_order: int = 2
    solver_type: str = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False
    final_sigmas_type: str = "zero"
    use_karras_sigmas: bool = False
    lambda_min_clipped: float = -math.inf
    timestep_spacing: str = "linspace"
    steps_offset: int = 0

    def __post_init__(self):
        # Of a diffusion model timestep 0 is never called.
        most = self.schedule.num_train_timesteps - (not self.schedule.is_flow)
        grid.check_steps("dpm_solver", most, self.num_inference_steps)
        allowed = (EPSILON, SAMPLE, V)
        if self.schedule.is_flow:
            allowed = (FLOW,)
        check_prediction("dpm_solver.prediction_type", self.prediction_type, allowed)
        grid.check_choice("dpm_solver.algorithm_type", self.algorithm_type, ALGORITHMS)
        grid.check_choice("dpm_solver.solver_type", self.solver_type, SOLVERS)
        orders = (1, 2) if self.stochastic else (1, 2, 3)
        if self.solver_order not in orders:
            raise UserError(
                "dpm_solver.solver_order",
                f"{self.solver_order} of {self.algorithm_type!r}",
                f"one of {list(orders)}",
                "Correct it.",
            )
        if self.schedule.is_flow and (
            self.use_karras_sigmas or self.lambda_min_clipped > -math.inf
        ):
            raise UserError(
                "dpm_solver.use_karras_sigmas, lambda_min_clipped",
                "one of them with a flow",
                "neither: a flow has levels of its own",
                "Leave them out, or change the noise schedule.",
            )
        _ = self._grid

    @property
    def calls(self) -> int:
        return self.num_inference_steps

    @property
    def stochastic(self) -> bool:
        return self.algorithm_type.startswith("sde")

    @property
    def timesteps(self) -> np.ndarray:
        """Int64 [calls]."""
        return self._grid[0]

    @property
    def sigmas(self) -> np.ndarray:
        """Float32 [calls + 1]: noise over picture; of a flow, the share of noise."""
        return self._grid[1]

    @functools.cached_property
    def _grid(self) -> tuple[np.ndarray, np.ndarray]:
        n, train = self.num_inference_steps, self.schedule.num_train_timesteps
        if self.schedule.is_flow:
            sigmas = 1 - np.linspace(1, 1 / train, n + 1)
            sigmas = shifted(sigmas, self.schedule.shift)[:0:-1]
            timesteps = sigmas * train
        else:
            levels = grid.variance_sigmas(self.schedule)
            if self.use_karras_sigmas:
                sigmas = grid.karras(float(levels[-1]), float(levels[0]), n)
                timesteps = grid.timesteps_of(sigmas, levels)
                if self.schedule.kind != "squaredcos_cap_v2":
                    timesteps = np.round(timesteps)
            else:
                timesteps = self._spaced(levels)
                sigmas = grid.between(levels, timesteps)
        sigmas = grid.with_last(sigmas, self.final_sigmas_type, self.schedule, "dpm_solver")
        return timesteps.astype(np.int64), sigmas

    def _spaced(self, levels: np.ndarray) -> np.ndarray:
        n, train = self.num_inference_steps, self.schedule.num_train_timesteps
        clipped = np.count_nonzero(-np.log(levels) < np.float32(self.lambda_min_clipped))
        last = train - int(clipped)
        grid.check_steps("dpm_solver", last - 1, n)
        if self.timestep_spacing == "trailing":
            whole = np.round(np.arange(last, 0, -train / n)[:n]) - 1
            if len(whole) < n or whole.min() < 0:
                raise UserError(
                    "dpm_solver.lambda_min_clipped",
                    f"{n} steps of {train / n:g} below timestep {last}",
                    "steps that end at timestep 0 or above",
                    "Take another timestep_spacing, or clip less.",
                )
            return whole
        # One more than there are steps: the last, timestep 0, is not called.
        return grid.whole_timesteps(
            self.timestep_spacing, last, n + 1, self.steps_offset, "dpm_solver"
        )[:-1]

    def _levels(self) -> tuple[np.ndarray, np.ndarray]:
        """Shares of picture and noise at every sigma, float32."""
        sigma = self.sigmas
        if self.schedule.is_flow:
            return 1 - sigma, sigma
        alpha = 1 / (sigma**2 + 1) ** 0.5
        return alpha, sigma * alpha

    @functools.cached_property
    def _tables(self) -> dict[str, np.ndarray]:
        alpha, sigma = self._levels()
        with np.errstate(divide="ignore"):  # the last level may be a picture without noise
            log_snr = np.log(alpha) - np.log(sigma)
        columns = []
        for i in range(self.calls):
            columns.append(self._weights(self._order(i), alpha[: i + 2], sigma[: i + 2], log_snr))
        weights = np.asarray(columns)
        return {
            "alpha": alpha[:-1],
            "sigma": sigma[:-1],
            "of_sample": weights[:, 0],
            "of_pictures": weights[:, 1:4],
            "of_noise": weights[:, 4],
            "timestep": self.timesteps,
        }

    def _order(self, i: int) -> int:
        """Of the step `i`: no more than there are predictions, and lower at the end."""
        left, few = self.calls - i, self.lower_order_final and self.calls < FEW_STEPS
        order = min(self.solver_order, i + 1)
        if left == 1 and (self.euler_at_final or few or self.final_sigmas_type == "zero"):
            return 1
        return min(order, 2) if left == 2 and few else order

    def _weights(self, order: int, alpha: np.ndarray, sigma: np.ndarray, log_snr: np.ndarray):
        """Of the picture so far, of the last three predictions and of noise."""
        i = len(alpha) - 2
        h = log_snr[i + 1] - log_snr[i]
        # The integral of exp(lambda) over the step, and of its products with the derivatives.
        twice = 2 if self.stochastic else 1
        kept = np.exp(-twice * h)
        of_sample = sigma[i + 1] / sigma[i] * (np.exp(-h) if self.stochastic else 1)
        zeroth = alpha[i + 1] * (1 - kept)
        pictures = np.array([zeroth, 0, 0])
        if order > 1:
            r0 = (log_snr[i] - log_snr[i - 1]) / h
            slope = np.array([1, -1, 0]) / r0
            first = 0.5 * zeroth
            if order == 3 or self.solver_type == "heun":
                first = alpha[i + 1] * ((kept - 1) / (twice * h) + 1)
            if order == 3:
                r1 = (log_snr[i - 1] - log_snr[i - 2]) / h
                change = slope - np.array([0, 1, -1]) / r1
                slope = slope + r0 / (r0 + r1) * change
                bend = alpha[i + 1] * ((1 - kept - twice * h) / (twice * h) ** 2 + 0.5)
                pictures = pictures + bend * change / (r0 + r1)
            pictures = pictures + first * slope
        of_noise = sigma[i + 1] * np.sqrt(1 - np.exp(-2 * h)) if self.stochastic else 0
        return [of_sample, *pictures, of_noise]

    def init(self, noise: Float[Array, "*shape"]) -> DPMSolverState:
        state = start(noise)
        empty = jnp.zeros((2, *state.sample.shape), jnp.float32)
        return DPMSolverState(sample=state.sample, call=state.call, history=empty)

    def model_input(self, state: DPMSolverState) -> tuple[Float[Array, "*shape"], Float[Array, ""]]:
        return state.sample, grid.at(self._tables, state.call)["timestep"]

    def step(
        self,
        state: DPMSolverState,
        output: Float[Array, "*shape"],
        noise: Float[Array, "*shape"] | None = None,
    ) -> DPMSolverState:
        here = grid.at(self._tables, state.call)
        level = Level(here["alpha"], here["sigma"])
        picture, _ = picture_and_noise(self.prediction_type, output, state.sample, level)
        pictures = jnp.concatenate([picture[None], state.history])
        sample = here["of_sample"] * state.sample
        sample += jnp.tensordot(here["of_pictures"], pictures, axes=1)
        if self.stochastic:
            sample += here["of_noise"] * noise.astype(jnp.float32)
        return DPMSolverState(sample=sample, call=state.call + 1, history=pictures[:2])

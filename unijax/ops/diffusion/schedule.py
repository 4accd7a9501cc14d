"""How much of a picture is noise at each timestep: `x_t = alpha_t x_0 + sigma_t noise`.

Diffusion with a discrete variance schedule (arXiv 2006.11239; cosine: arXiv 2102.09672, section
3.2; scaled linear: Stable Diffusion) and rectified flow with a shifted time (arXiv 2209.03003;
shift: arXiv 2403.03206, section 5.3.2). Names and numbers are those of diffusers' schedulers.
"""

import dataclasses
import functools
import itertools
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from unijax.core.errors import UserError

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
FLOW = "flow"
KINDS = (*BETA_SCHEDULES, FLOW)
COSINE_OFFSET = 0.008
LARGEST_BETA = 0.999  # of the cosine schedule, whose last step would destroy everything


class Level(NamedTuple):
    """Shares of picture and noise. Scalars, or arrays `[*batch]` for pictures `[*batch, ...]`."""

    alpha: Float[Array, "*batch"]
    sigma: Float[Array, "*batch"]


@dataclasses.dataclass(frozen=True)
class NoiseSchedule:
    """The levels of the timesteps 0 (least noise) to `num_train_timesteps - 1` (most).

    Attributes:
      kind: of `KINDS`. "squaredcos_cap_v2" is the cosine schedule, "flow" rectified flow.
      num_train_timesteps: the papers' T, whose steps 1 to T are 0 to T - 1 here.
      beta_start: variance of the first step; of the linear kinds.
      beta_end: variance of the last step; of the linear kinds.
      shift: of "flow" alone: above 1 spends more of the timesteps at much noise.

    Raises:
      UserError: an unknown kind, no timesteps, or a field of another kind.
    """

    kind: str = "squaredcos_cap_v2"
    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    shift: float = 1.0

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UserError(
                "NoiseSchedule.kind", repr(self.kind), f"one of {list(KINDS)}", "Correct it."
            )
        if self.num_train_timesteps < 1:
            raise UserError(
                "NoiseSchedule.num_train_timesteps",
                f"{self.num_train_timesteps}",
                "at least 1",
                "Correct it; published models have 1000.",
            )
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise UserError(
                "NoiseSchedule.beta_start, beta_end",
                f"{self.beta_start}, {self.beta_end}",
                "0 < beta_start <= beta_end < 1",
                "Correct them.",
            )
        if self.shift <= 0 or (self.shift != 1 and self.kind != FLOW):
            raise UserError(
                "NoiseSchedule.shift",
                f"{self.shift} with the kind {self.kind!r}",
                f"a positive number, and 1 unless the kind is {FLOW!r}",
                "Correct one of them.",
            )

    @property
    def is_flow(self) -> bool:
        return self.kind == FLOW

    @functools.cached_property
    def alphas_cumprod(self) -> np.ndarray:
        """The papers' alpha-bar, float32 [T]; 1 less the variance of the noise.

        Rounded where diffusers rounds: at little noise that decides what samplers do.
        """
        assert not self.is_flow, self
        steps = self.num_train_timesteps
        if self.kind == "linear":
            betas = np.linspace(self.beta_start, self.beta_end, steps).astype(np.float32)
        elif self.kind == "scaled_linear":
            roots = np.linspace(self.beta_start**0.5, self.beta_end**0.5, steps)
            betas = roots.astype(np.float32) ** 2
        else:
            kept = [
                math.cos((i / steps + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2
                for i in range(steps + 1)
            ]
            betas = [min(1 - b / a, LARGEST_BETA) for a, b in itertools.pairwise(kept)]
        alphas = np.float32(1) - np.asarray(betas, np.float32)
        return np.cumprod(alphas, dtype=np.float64).astype(np.float32)

    @functools.cached_property
    def flow_sigmas(self) -> np.ndarray:
        """Share of noise of a rectified flow, float32 [T], ascending to 1."""
        assert self.is_flow, self
        steps = np.arange(1, self.num_train_timesteps + 1, dtype=np.float32)
        return shifted(steps / np.float32(self.num_train_timesteps), self.shift)

    def level(self, timestep: Int[Array, "*batch"]) -> Level:
        """Float32 levels of timesteps; -1 is a picture without noise."""
        if self.is_flow:
            sigma = self.flow_sigmas
            alpha = 1 - sigma
        else:
            alpha, sigma = np.sqrt(self.alphas_cumprod), np.sqrt(1 - self.alphas_cumprod)
        clean_first = [np.concatenate([[x], table]) for x, table in ((1, alpha), (0, sigma))]
        return Level(*(jnp.asarray(table, jnp.float32)[timestep + 1] for table in clean_first))

    def model_timestep(self, timestep: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
        """What the network is told, float32: the timestep, or of a flow T times its sigma."""
        if not self.is_flow:
            return timestep.astype(jnp.float32)
        return self.level(timestep).sigma * self.num_train_timesteps


def shifted(sigma: np.ndarray, shift: float) -> np.ndarray:
    """The time of a flow, moved towards noise (arXiv 2403.03206, equation 23)."""
    return shift * sigma / (1 + (shift - 1) * sigma)

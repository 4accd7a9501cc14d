"""Pseudo numerical methods (arXiv 2202.09778, algorithm 2): Runge-Kutta first, then multistep.

Equal to diffusers' `PNDMScheduler`, whose flags these are; Stable Diffusion 1's own sampler.

Every call combines its output with earlier ones, in proportions that are known beforehand: the
last outputs that were kept (multistep), and a running sum (Runge-Kutta, four calls for a step).
"""

import dataclasses
import functools
import itertools
from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from unijax.ops.diffusion import grid
from unijax.ops.diffusion.noising import EPSILON, V, check_prediction
from unijax.ops.diffusion.sampling import State, start
from unijax.ops.diffusion.schedule import NoiseSchedule

RUNGE_KUTTA_STEPS = 3  # that fill the history
# Of the output and of those kept before it, the latest first (Adams-Bashforth).
MULTISTEP = (
    (1.0, 0.0, 0.0, 0.0),
    (3 / 2, -1 / 2, 0.0, 0.0),
    (23 / 12, -16 / 12, 5 / 12, 0.0),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


@flax.struct.dataclass
class PNDMState(State):
    """Also the picture at the start of a step of several calls, and earlier outputs."""

    saved: Any  # float32, as `sample`
    history: Any  # float32 [3, ...], the latest first
    total: Any  # float32, as `sample`


@dataclasses.dataclass(frozen=True)
class PNDM:
    """More calls than steps: one more, or with Runge-Kutta nine more.

    Attributes:
      skip_prk_steps: multistep from the first call on, as Stable Diffusion does.
      set_alpha_to_one: the last step ends at the picture, not at the level of timestep 0.

    Raises:
      UserError: a number of steps that cannot be (Runge-Kutta needs four), an unknown name, a
        rectified flow.
    """

    schedule: NoiseSchedule
    num_inference_steps: int
    prediction_type: str = EPSILON
    skip_prk_steps: bool = False
    set_alpha_to_one: bool = False
    timestep_spacing: str = "leading"
    steps_offset: int = 0

    stochastic = False

    def __post_init__(self):
        grid.check_kind("pndm", self.schedule, flow=False)
        fewest = 1 if self.skip_prk_steps else RUNGE_KUTTA_STEPS + 1
        grid.check_steps(
            "pndm", self.schedule.num_train_timesteps, self.num_inference_steps, fewest
        )
        check_prediction("pndm.prediction_type", self.prediction_type, (EPSILON, V))
        _ = self._spaced

    @property
    def calls(self) -> int:
        return len(self.timesteps)

    @property
    def timesteps(self) -> np.ndarray:
        """Int64 [calls]: those that the network is told."""
        return self._plan["timestep"]

    @functools.cached_property
    def _spaced(self) -> list[int]:
        spaced = grid.whole_timesteps(
            self.timestep_spacing,
            self.schedule.num_train_timesteps,
            self.num_inference_steps,
            self.steps_offset,
            "pndm",
        )
        return spaced.tolist()

    @functools.cached_property
    def _plan(self) -> dict[str, np.ndarray]:
        """For every call: timesteps, between which it steps, and what it makes of the outputs."""
        stride = self.schedule.num_train_timesteps // self.num_inference_steps
        calls = []
        if self.skip_prk_steps:
            multistep = self._spaced
        else:
            for t, after in itertools.islice(itertools.pairwise(self._spaced), RUNGE_KUTTA_STEPS):
                calls += _runge_kutta(t, after, stride // 2)
            multistep = self._spaced[RUNGE_KUTTA_STEPS:]
        for i, t in enumerate(multistep):
            order = min(i, 3) if self.skip_prk_steps else 3
            one = _Call(t, t, t - stride, of_outputs=MULTISTEP[order])
            if self.skip_prk_steps and i == 0 and len(multistep) > 1:
                # Heun's method: a first step is tried, and taken with the mean of both outputs.
                half = (1 / 2, 1 / 2, 0.0, 0.0)
                trial = dataclasses.replace(one, saves=True)
                again = _Call(multistep[1], multistep[1] + stride, multistep[1], half)
                calls += [trial, dataclasses.replace(again, from_saved=True, keeps=False)]
            else:
                calls.append(one)
        columns = zip(*(dataclasses.astuple(c) for c in calls))
        return {f.name: np.asarray(c) for f, c in zip(dataclasses.fields(_Call), columns)}

    @functools.cached_property
    def _tables(self) -> dict[str, np.ndarray]:
        plan = self._plan
        kept = self.schedule.alphas_cumprod[plan["start"]]
        kept_next = grid.kept_at(self.schedule, plan["end"], self.set_alpha_to_one)
        noise, noise_next = 1 - kept, 1 - kept_next
        slope = kept * noise_next**0.5 + (kept * noise * kept_next) ** 0.5
        return plan | {
            "alpha": kept**0.5,
            "sigma": noise**0.5,
            "of_sample": (kept_next / kept) ** 0.5,
            "of_predicted_noise": -(kept_next - kept) / slope,
        }

    def init(self, noise: Float[Array, "*shape"]) -> PNDMState:
        state = start(noise)
        zeros = jnp.zeros_like(state.sample)
        return PNDMState(
            sample=state.sample,
            call=state.call,
            saved=zeros,
            history=jnp.stack([zeros] * 3),
            total=zeros,
        )

    def model_input(self, state: PNDMState) -> tuple[Float[Array, "*shape"], Float[Array, ""]]:
        return state.sample, grid.at(self._tables, state.call)["timestep"]

    def step(
        self,
        state: PNDMState,
        output: Float[Array, "*shape"],
        noise: Float[Array, "*shape"] | None = None,
    ) -> PNDMState:
        del noise
        here = grid.at(self._tables, state.call)
        output = output.astype(jnp.float32)
        earlier = jnp.concatenate([output[None], state.history])
        combined = jnp.tensordot(here["of_outputs"], earlier, axes=1)
        combined += here["of_total"] * state.total
        base = jnp.where(here["from_saved"] > 0, state.saved, state.sample)
        if self.prediction_type == V:
            combined = here["alpha"] * combined + here["sigma"] * base
        return PNDMState(
            sample=here["of_sample"] * base + here["of_predicted_noise"] * combined,
            call=state.call + 1,
            saved=jnp.where(here["saves"] > 0, state.sample, state.saved),
            history=jnp.where(here["keeps"] > 0, earlier[:3], state.history),
            total=here["keeps_total"] * state.total + here["to_total"] * output,
        )


@dataclasses.dataclass(frozen=True)
class _Call:
    """One call of the network.

    Attributes:
      timestep: that the network is told.
      start, end: timesteps between which the picture is moved.
      of_outputs: shares of this output and of the three kept before it.
      saves, from_saved: whether the picture is kept aside, or the one kept aside is moved.
      keeps: whether the output enters the history.
      of_total: share of the running sum in what moves the picture.
      to_total, keeps_total: share of the output that enters the sum, and of the sum that stays.
    """

    timestep: int
    start: int
    end: int
    of_outputs: tuple[float, float, float, float]
    saves: bool = False
    from_saved: bool = False
    keeps: bool = True
    of_total: float = 0.0
    to_total: float = 0.0
    keeps_total: float = 0.0


def _runge_kutta(t: int, after: int, half: int) -> list[_Call]:
    """The four calls of a step to `after`: at its start, twice in the middle, at its end."""
    middle, alone = after + half, (1.0, 0.0, 0.0, 0.0)
    inner = {"from_saved": True, "keeps": False}
    return [
        _Call(t, t, t - half, alone, saves=True, to_total=1 / 6),
        _Call(middle, t, middle, alone, **inner, to_total=1 / 3, keeps_total=1.0),
        _Call(middle, t, after, alone, **inner, to_total=1 / 3, keeps_total=1.0),
        _Call(after, t, after, (1 / 6, 0.0, 0.0, 0.0), **inner, of_total=1.0),
    ]

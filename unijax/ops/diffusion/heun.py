"""Heun's method (arXiv 2206.00364, algorithm 1), for diffusion models and for flows.

Equal to diffusers' `HeunDiscreteScheduler` and, for a flow, `FlowMatchHeunDiscreteScheduler`, whose
flags these are.
"""

import dataclasses
import functools
from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from unijax.ops.diffusion import grid
from unijax.ops.diffusion.euler import SigmaGrid
from unijax.ops.diffusion.sampling import State, start


@flax.struct.dataclass
class HeunState(State):
    """Also where the step began, and the slope there."""

    saved: Any  # float32, as `sample`
    slope: Any  # float32, as `sample`


@dataclasses.dataclass(frozen=True)
class Heun(SigmaGrid):
    """Two calls for each step but the last, which is Euler's: at its start and at its end.

    Attributes:
      clip_sample: holds the predicted picture to +-`clip_sample_range`: for pixels, not latents.
    """

    clip_sample: bool = False
    clip_sample_range: float = 1.0

    @property
    def calls(self) -> int:
        return 2 * self.num_inference_steps - 1

    @property
    def timesteps(self) -> np.ndarray:
        """Float32 [calls]; of "linspace" they may lie between two."""
        return np.repeat(self._grid[0], 2)[1:]

    @functools.cached_property
    def _tables(self) -> dict[str, np.ndarray]:
        sigmas = self._grid[1]
        at_start = np.arange(self.calls) % 2 == 0
        return {
            "timestep": self.timesteps,
            "sigma": np.repeat(sigmas[:-1], 2)[1:],  # where the network is asked
            "stride": np.repeat(np.diff(sigmas), 2)[:-1],  # of the step that the call belongs to
            "at_start": at_start,
        }

    def init(self, noise: Float[Array, "*shape"]) -> HeunState:
        state = start(noise, self.init_scale)
        zeros = jnp.zeros_like(state.sample)
        return HeunState(sample=state.sample, call=state.call, saved=zeros, slope=zeros)

    def model_input(self, state: HeunState) -> tuple[Float[Array, "*shape"], Float[Array, ""]]:
        here = grid.at(self._tables, state.call)
        return self.network_input(state.sample, here["sigma"]), here["timestep"]

    def step(
        self,
        state: HeunState,
        output: Float[Array, "*shape"],
        noise: Float[Array, "*shape"] | None = None,
    ) -> HeunState:
        del noise
        here = grid.at(self._tables, state.call)
        picture = self.picture(output, state.sample, here["sigma"])
        if self.clip_sample:
            picture = jnp.clip(picture, -self.clip_sample_range, self.clip_sample_range)
        slope = (state.sample - picture) / here["sigma"]
        at_start = here["at_start"] > 0
        base = jnp.where(at_start, state.sample, state.saved)
        mean = jnp.where(at_start, slope, (state.slope + slope) / 2)
        return HeunState(
            sample=base + here["stride"] * mean, call=state.call + 1, saved=base, slope=slope
        )

"""What every sampler is, and the loop that draws with one."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, UInt32

from unijax.ops.diffusion.noising import draw_step_noise


@flax.struct.dataclass
class State:
    """What a sampler carries from call to call.

    Attributes:
      sample: float32, the picture so far; the picture itself after the last call.
      call: int32 scalar, calls of the network so far.
    """

    sample: Any
    call: Any


@runtime_checkable
class Sampler(Protocol):
    """A frozen dataclass of a noise schedule and flags; hashable, tables made once on the host.

    Its methods are pure: the state fits `jax.lax.scan` and `fori_loop`.

    Attributes:
      calls: of the network, at least one for each denoising step.
      stochastic: whether `step` needs fresh noise.
    """

    @property
    def calls(self) -> int: ...

    @property
    def stochastic(self) -> bool: ...

    def init(self, noise: Float[Array, "*shape"]) -> State:
        """From standard normal noise."""
        ...

    def model_input(self, state: State) -> tuple[Float[Array, "*shape"], Float[Array, ""]]:
        """What the network is given next: its input and the timestep, float32."""
        ...

    def step(
        self,
        state: State,
        output: Float[Array, "*shape"],
        noise: Float[Array, "*shape"] | None = None,
    ) -> State:
        """Uses what the network said of `model_input(state)`.

        Args:
          noise: standard normal, fresh for every call, where the sampler is stochastic.
        """
        ...


# Of pictures, one timestep for all and what the network keeps: its output, and what it keeps then.
Predict = Callable[
    [Float[Array, "*shape"], Float[Array, ""], Any], tuple[Float[Array, "*shape"], Any]
]


def denoise(
    sampler: Sampler,
    noise: Float[Array, "B *shape"],
    predict: Predict,
    seeds: UInt32[Array, " B"] | None = None,
    kept: Any = None,
) -> Float[Array, "B *shape"]:
    """Pictures from noise, float32.

    Args:
      noise: standard normal.
      predict: the network.
      seeds: of the pictures, from which a stochastic sampler draws.
      kept: what the network keeps from call to call, such as a cache; arrays of one shape.
    """
    assert not sampler.stochastic or seeds is not None, "a stochastic sampler draws from seeds"

    def call(_, carry):
        state, kept = carry
        x, timestep = sampler.model_input(state)
        output, kept = predict(x, timestep, kept)
        fresh = draw_step_noise(seeds, state.call, x.shape[1:]) if sampler.stochastic else None
        return sampler.step(state, output, fresh), kept

    state, _ = jax.lax.fori_loop(0, sampler.calls, call, (sampler.init(noise), kept))
    return state.sample


def start(noise: Float[Array, "*shape"], scale: float = 1.0) -> State:
    """The first state: noise of standard deviation `scale`."""
    return State(sample=scale * noise.astype(jnp.float32), call=jnp.zeros((), jnp.int32))

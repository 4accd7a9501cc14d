"""Adding noise, what a network may predict of it, and draws that belong to a picture.

All in float32. A picture is `[*batch, ...]` where its level is `[*batch]`.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, UInt32

from unijax.core.errors import UserError
from unijax.ops import draws
from unijax.ops.diffusion.schedule import Level

EPSILON = "epsilon"  # the noise
SAMPLE = "sample"  # the picture
V = "v_prediction"  # alpha noise - sigma picture (arXiv 2202.00512, section 4)
FLOW = "flow_prediction"  # noise - picture, the velocity of a rectified flow
PREDICTIONS = (EPSILON, SAMPLE, V, FLOW)


def check_prediction(where: str, prediction: str, allowed: tuple[str, ...] = PREDICTIONS) -> None:
    """Raises UserError for a name that is not among the allowed ones."""
    if prediction not in allowed:
        raise UserError(where, repr(prediction), f"one of {list(allowed)}", "Correct it.")


def add_noise(
    picture: Float[Array, "*shape"], noise: Float[Array, "*shape"], level: Level
) -> Float[Array, "*shape"]:
    """`alpha picture + sigma noise`."""
    alpha, sigma = _over(level, picture)
    return alpha * picture.astype(jnp.float32) + sigma * noise.astype(jnp.float32)


def target(
    prediction: str, picture: Float[Array, "*shape"], noise: Float[Array, "*shape"], level: Level
) -> Float[Array, "*shape"]:
    """What a network that predicts `prediction` should say.

    Raises:
      UserError: an unknown prediction.
    """
    check_prediction("prediction", prediction)
    picture, noise = picture.astype(jnp.float32), noise.astype(jnp.float32)
    alpha, sigma = _over(level, picture)
    return {
        EPSILON: lambda: noise,
        SAMPLE: lambda: picture,
        V: lambda: alpha * noise - sigma * picture,
        FLOW: lambda: noise - picture,
    }[prediction]()


def picture_and_noise(
    prediction: str, output: Float[Array, "*shape"], x: Float[Array, "*shape"], level: Level
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """What an output says of the noisy `x`: its picture and its noise.

    Whatever the schedule is: in these equations `alpha^2 + sigma^2` is 1 for diffusion and
    `alpha + sigma` is 1 for a flow.

    Raises:
      UserError: an unknown prediction.
    """
    check_prediction("prediction", prediction)
    output, x = output.astype(jnp.float32), x.astype(jnp.float32)
    alpha, sigma = _over(level, x)
    if prediction == EPSILON:
        return (x - sigma * output) / alpha, output
    if prediction == SAMPLE:
        return output, (x - alpha * output) / sigma
    if prediction == V:
        whole = alpha**2 + sigma**2
        return (alpha * x - sigma * output) / whole, (sigma * x + alpha * output) / whole
    whole = alpha + sigma
    return (x - sigma * output) / whole, (x + alpha * output) / whole


def convert(
    output: Float[Array, "*shape"],
    x: Float[Array, "*shape"],
    level: Level,
    from_prediction: str,
    to_prediction: str,
) -> Float[Array, "*shape"]:
    """The output of another network that says the same of the noisy `x`.

    Raises:
      UserError: an unknown prediction.
    """
    picture, noise = picture_and_noise(from_prediction, output, x, level)
    return target(to_prediction, picture, noise, level)


def draw_noise(seed: UInt32[Array, "*batch"], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Standard normal, float32 `[*batch, *shape]`: of each picture a function of its seed alone."""
    return draws.normal(draws.keys_of(seed, "noise"), shape)


def draw_timesteps(
    seed: UInt32[Array, "*batch"], count: Int[Array, "*batch"]
) -> Int[Array, "*batch"]:
    """Timesteps 0 to `count` - 1, uniform: of each picture a function of its seed alone.

    Args:
      count: how many of the lowest timesteps may be drawn. 0 gives -1, a picture without noise.
    """
    u = draws.uniform(draws.keys_of(seed, "timestep"))
    drawn = jnp.floor(u * count).astype(jnp.int32)
    return jnp.minimum(drawn, count - 1)  # the product may round up to count


def draw_step_noise(
    seed: UInt32[Array, "*batch"], call: Int[Array, ""], shape: tuple[int, ...]
) -> Float[Array, "..."]:
    """As `draw_noise`, afresh for each of the calls 0, 1, ... of a stochastic sampler."""
    keys = draws.keys_of(seed, "noise of a call").reshape(-1)
    keys = jax.vmap(lambda key: jax.random.fold_in(key, call))(keys)
    return draws.normal(keys.reshape(seed.shape), shape)


def _over(level: Level, picture: Array) -> Level:
    """Float32, with dims of size 1 for those of a picture that a level lacks."""

    def one(x):
        x = jnp.asarray(x, jnp.float32)
        return x.reshape(x.shape + (1,) * (picture.ndim - x.ndim))

    return Level(*map(one, level))

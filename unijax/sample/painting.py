"""Painting: a latent picture from vectors, by a diffusion model of its own."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, UInt32

from unijax.core.making import Painting
from unijax.core.system import Params
from unijax.ops.diffusion import denoise, draw_noise
from unijax.sample.logits import guide


@functools.partial(jax.jit, static_argnames=("system", "painting", "steps"))
def paint(
    system: Any,
    painting: Painting,
    params: Params,
    vectors: Float[Array, "B N F"],
    free: Float[Array, "B N F"] | None,
    seeds: UInt32[Array, " B"],
    guidance: Float[Array, ""] | None,
    steps: int,
) -> Float[Array, "B h w C"]:
    """A latent picture for each seed. Which one it gets does not depend on the others.

    Args:
      system: has the methods that `painting` names.
      free: vectors of what stands for no condition; None: what is shown is zeros.
      guidance: scale; None paints with the condition alone, with half the work.
      steps: of denoising.
    """
    predict_of = getattr(system, painting.predict)
    sampler = getattr(system, painting.sampler)(steps)
    condition = functools.partial(getattr(system, painting.condition), params)
    shown = condition(vectors)
    if guidance is not None:
        without = jnp.zeros_like(shown) if free is None else condition(free)
        shown = jnp.concatenate([shown, without])

    def predict(x, timestep, kept):
        both = x if guidance is None else jnp.concatenate([x, x])
        out = predict_of(params, both, jnp.broadcast_to(timestep, len(both)), shown)
        return out if guidance is None else guide(*jnp.split(out, 2), guidance), kept

    return denoise(sampler, draw_noise(seeds, painting.shape), predict, seeds)

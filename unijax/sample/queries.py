"""Drawing with learned queries: a prompt, the queries behind it, and what draws from noise."""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, UInt32

from unijax.core.batch import PackedBatch
from unijax.core.system import Params, RowSystem
from unijax.ops.diffusion import denoise, draw_noise
from unijax.sample.decoding import begin, grown
from unijax.sample.logits import guide


@functools.partial(jax.jit, static_argnames=("system", "steps"))
def draw_with_queries(
    system: RowSystem,
    params: Params,
    prompt: PackedBatch,
    length: Int[Array, "R"],
    seeds: UInt32[Array, "B"],
    guidance: Float[Array, ""] | None,
    steps: int,
) -> Float[Array, "B h w C"]:
    """A latent picture for each seed. Which one a row gets does not depend on the other rows.

    Args:
      params: as `system.for_decoding` lays them out.
      prompt: one document a row, up to where the image begins, in the last `length` columns: R is B
        without guidance, 2B with prompts that it leads away from, or 3B with those without words
        and those without pictures too, in this order.
      length: of each prompt.
      seeds: of each picture.
      guidance: scale of words; None draws from the prompts alone.
      steps: of denoising.
    """
    width, maker = prompt.tokens.shape[1], system.maker
    rows, n = len(length), maker.tokens
    start, kind = width - length, system.layout.by_role[maker.role].kind
    _, cache = begin(system, params, prompt, start)
    at = jnp.arange(n, dtype=jnp.int32)
    ends = jnp.broadcast_to(width + 1 + at, (rows, n))  # each sees those before it
    starts = jnp.broadcast_to(start[:, None], (rows, n))
    queries = getattr(system, maker.embed)(params, rows)
    position, cache = length[:, None] + at, grown(cache, width + n)
    hidden, _ = system.decode(params, queries, position, starts, ends, cache, kind)
    shown = getattr(system, maker.condition)(params, hidden)
    ways = rows // len(seeds)

    def predict(x, timestep, kept):
        told = jnp.broadcast_to(timestep, rows)
        out = getattr(system, maker.predict)(params, jnp.concatenate([x] * ways), told, shown)
        wanted, *others = jnp.split(out, ways)
        if not others:
            return wanted, kept
        found = guide(wanted, others[0], guidance)
        if len(others) == 2:  # without words, less what is without pictures too
            found = found + (maker.image_guidance - 1) * (others[0] - others[1])
        return found, kept

    sampler = getattr(system, maker.sampler)(steps)
    return denoise(sampler, draw_noise(seeds, maker.shape), predict, seeds)

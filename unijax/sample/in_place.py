"""Drawing by denoising inside the row: the prompt's keys are kept, the picture's worked again."""

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
def draw_latents(
    system: RowSystem,
    params: Params,
    prompt: PackedBatch,
    length: Int[Array, "R"],
    seeds: UInt32[Array, "B"],
    guidance: Float[Array, ""] | None,
    steps: int,
) -> Float[Array, "B h w C"]:
    """A latent picture for each seed.

    The prompts are worked once. Every denoising step works the N positions of the picture, which
    see the prompt and each other, and overwrites their keys and values in the cache. Which picture
    a row gets does not depend on the other rows.

    Args:
      params: as `system.for_decoding` lays them out.
      prompt: one document a row, up to where the image begins, in the last `length` columns: R is B
        without guidance, else 2B, the unconditional ones behind the others.
      length: of each prompt.
      seeds: of each picture.
      guidance: scale; None draws from the conditional prompts alone, with half the work.
      steps: of denoising.
    """
    width, maker = prompt.tokens.shape[1], system.maker
    rows, n = len(length), maker.tokens
    start, kind = width - length, system.layout.by_role[maker.role].kind
    sampler = getattr(system, maker.sampler)(steps)
    position = length[:, None] + jnp.arange(n, dtype=jnp.int32)
    kv_start = jnp.broadcast_to(start[:, None], (rows, n))
    kv_end = jnp.full((rows, n), width + n, jnp.int32)

    def predict(x, timestep, cache):
        both = x if guidance is None else jnp.concatenate([x, x])
        at = jnp.broadcast_to(timestep, rows)
        inputs, kept = getattr(system, maker.embed)(params, both, at)
        hidden, cache = system.decode(params, inputs, position, kv_start, kv_end, cache, kind)
        out = getattr(system, maker.predict)(params, hidden, kept, at)
        out = out if guidance is None else guide(*jnp.split(out, 2), guidance)
        return out, cache.replace(length=jnp.int32(width))  # the next step writes there again

    _, cache = begin(system, params, prompt, start)
    noise = draw_noise(seeds, maker.shape)
    return denoise(sampler, noise, predict, seeds, grown(cache, width + n))

"""Drawing: image codes one by one under guidance, then pixels."""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, UInt8, UInt32

from unijax.core.batch import PackedBatch
from unijax.core.system import Params, RowSystem
from unijax.ops.image import to_bytes, to_signed
from unijax.sample.decoding import begin, grown, parts, row_keys, step
from unijax.sample.logits import Choice, choose, guide


@functools.partial(jax.jit, static_argnames="system")
def draw_codes(
    system: RowSystem,
    params: Params,
    prompt: PackedBatch,
    length: Int[Array, "R"],
    seeds: UInt32[Array, "B"],
    choice: Choice,
    guidance: Float[Array, ""] | None,
) -> Int[Array, "B N"]:
    """Codes of a picture for each seed, in raster order.

    The conditional and the unconditional prompts are 2B rows of one batch; the code drawn from both
    is the next input of both (`generation_inference.py` of Janus's released code). Which codes a
    row gets does not depend on the other rows.

    Args:
      params: as `system.for_decoding` lays them out.
      prompt: one document a row, up to where the image begins, in the last `length` columns: R is B
        without guidance, else 2B, the unconditional ones behind the others.
      length: of each prompt.
      seeds: of each picture.
      guidance: scale; None draws from the conditional prompts alone, with half the work.
    """
    width, maker = prompt.tokens.shape[1], system.maker
    logits_of, embed = getattr(system, maker.logits), getattr(system, maker.embed)
    start = width - length

    def draw(hidden, at):
        logits = logits_of(params, hidden)
        if guidance is not None:
            logits = guide(*jnp.split(logits, 2), guidance)
        return choose(logits, row_keys(seeds, at), choice)

    def next_code(carry, at):
        code, cache = carry
        x = embed(params, code)
        if guidance is not None:
            x = jnp.concatenate([x, x])
        hidden, cache = step(system, params, x, start, cache)
        code = draw(hidden, at)
        return (code, cache), code

    hidden, cache = begin(system, params, prompt, start)
    code = draw(hidden, 0)
    codes = [code[None]]
    for first, last in parts(maker.tokens - 1):
        carry = code, grown(cache, width + last)
        (code, cache), some = jax.lax.scan(next_code, carry, jnp.arange(first + 1, last + 1))
        codes.append(some)
    return jnp.concatenate(codes).T


@functools.partial(jax.jit, static_argnames="system")
def show(system: RowSystem, params: Params, made: Array) -> UInt8[Array, "B height width 3"]:
    """The pictures of codes or latents. Of the parameters, the image tokenizer's are used."""
    return to_bytes(getattr(system, system.maker.show)(params, made))


@functools.partial(jax.jit, static_argnames="system")
def read(system: RowSystem, params: Params, pixels: UInt8[Array, "B height width 3"]) -> Array:
    """The codes or latents of pictures. Of the parameters, the image tokenizer's are used."""
    return getattr(system, system.maker.read)(params, to_signed(pixels, system.dtype))

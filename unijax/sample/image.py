"""Drawing: image codes one by one under guidance, then pixels."""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, UInt8, UInt32

from unijax.core.system import Params
from unijax.ops.image import to_bytes, to_signed
from unijax.sample.decoding import begin, grown, parts, row_keys, step
from unijax.sample.logits import Choice, choose, guide
from unijax.systems.janus import Janus


@functools.partial(jax.jit, static_argnames="system")
def draw_codes(
    system: Janus,
    params: Params,
    prompt: Int[Array, "B P"],
    length: Int[Array, "B"],
    pad: Int[Array, ""],
    seeds: UInt32[Array, "B"],
    choice: Choice,
    guidance: Float[Array, ""] | None,
) -> Int[Array, "B N"]:
    """Codes of a picture for each row, in raster order.

    The conditional and the unconditional stream are 2B rows of one batch; the code drawn from both
    is the next input of both (`generation_inference.py` of the released code). Which codes a row
    gets does not depend on the other rows.

    Args:
      params: as `decoding.for_decoding` lays them out.
      prompt: ids from begin-of-sequence to begin-of-image, in the last `length` columns.
      length: of each prompt.
      pad: id that stands for every token of the unconditional prompt but its first and its last;
        an ordinary, attended input.
      seeds: of each row.
      guidance: scale; None draws from the conditional stream alone, with half the work.
    """
    width = prompt.shape[1]
    start = width - length
    if guidance is not None:
        column = jnp.arange(width)
        kept = (column == start[:, None]) | (column == width - 1)
        prompt = jnp.concatenate([prompt, jnp.where(kept, prompt, pad)])
        start = jnp.concatenate([start, start])

    def draw(hidden, at):
        logits = system.code_logits(params, hidden)
        if guidance is not None:
            logits = guide(*jnp.split(logits, 2), guidance)
        return choose(logits, row_keys(seeds, at), choice)

    def next_code(carry, at):
        code, cache = carry
        x = system.embed_codes(params, code)
        if guidance is not None:
            x = jnp.concatenate([x, x])
        hidden, cache = step(system, params, x, start, cache)
        code = draw(hidden, at)
        return (code, cache), code

    hidden, cache = begin(system, params, system.embed_text(params, prompt), start)
    code = draw(hidden, 0)
    codes = [code[None]]
    for first, last in parts(system.config.vq.num_tokens - 1):
        carry = code, grown(cache, width + last)
        (code, cache), some = jax.lax.scan(next_code, carry, jnp.arange(first + 1, last + 1))
        codes.append(some)
    return jnp.concatenate(codes).T


@functools.partial(jax.jit, static_argnames="system")
def show_codes(
    system: Janus, params: Params, codes: Int[Array, "B N"]
) -> UInt8[Array, "B height width 3"]:
    """The pictures of codes. Of the parameters, `vqmodel` is used."""
    return to_bytes(system.decode_gen(params, codes))


@functools.partial(jax.jit, static_argnames="system")
def read_codes(
    system: Janus, params: Params, pixels: UInt8[Array, "B height width 3"]
) -> Int[Array, "B N"]:
    """The codes of pictures. Of the parameters, `vqmodel` is used."""
    return system.encode_gen(params, to_signed(pixels, system.dtype))

"""Drawing: image tokens one by one under guidance, then pixels."""

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
    maker = system.maker
    logits_of, embed = getattr(system, maker.logits), getattr(system, maker.embed)

    def draw(hidden, at):
        logits = logits_of(params, hidden)
        if guidance is not None:
            logits = guide(*jnp.split(logits, 2), guidance)
        return choose(logits, row_keys(seeds, at), choice)

    def next_input(codes, at):
        x = embed(params, codes, at) if maker.embeds_all else embed(params, codes[:, at])
        return x if guidance is None else jnp.concatenate([x, x])

    return _one_by_one(system, params, prompt, length, draw, next_input)


@functools.partial(jax.jit, static_argnames="system")
def draw_features(
    system: RowSystem,
    params: Params,
    prompt: PackedBatch,
    length: Int[Array, "R"],
    guidance: Float[Array, ""] | None,
) -> Float[Array, "B N F"]:
    """Vectors of a picture for each prompt: nothing of them is drawn by chance.

    Args: as `draw_codes` has them.
    """
    maker = system.maker
    predict, embed = getattr(system, maker.predict), getattr(system, maker.embed)

    def draw(hidden, at):
        del at
        found = predict(params, hidden)
        return found if guidance is None else guide(*jnp.split(found, 2), guidance)

    def next_input(vectors, at):
        x = embed(params, vectors[:, at])
        return x if guidance is None else jnp.concatenate([x, x])

    return _one_by_one(system, params, prompt, length, draw, next_input)


def _one_by_one(system, params, prompt, length, draw, next_input) -> Array:
    """N tokens of an image, `[B, N, ...]`.

    Args:
      draw: (hidden [R, D], number of the token) -> tokens [B, ...].
      next_input: (all tokens [B, N, ...], number of one) -> its input [R, D].
    """
    width, maker = prompt.tokens.shape[1], system.maker
    start, kind = width - length, system.layout.by_role[maker.role].kind

    def next_token(carry, at):
        tokens, cache = carry
        hidden, cache = step(system, params, next_input(tokens, at - 1), start, cache, kind)
        return (tokens.at[:, at].set(draw(hidden, at)), cache), None

    hidden, cache = begin(system, params, prompt, start)
    token = draw(hidden, 0)
    tokens = jnp.zeros((len(token), maker.tokens, *token.shape[1:]), token.dtype)
    tokens = tokens.at[:, 0].set(token)
    for first, last in parts(maker.tokens - 1):
        carry = tokens, grown(cache, width + last)
        (tokens, cache), _ = jax.lax.scan(next_token, carry, jnp.arange(first + 1, last + 1))
    return tokens


@functools.partial(jax.jit, static_argnames="system")
def show(system: RowSystem, params: Params, made: Array) -> UInt8[Array, "B height width 3"]:
    """The pictures of codes or latents. Of the parameters, the image tokenizer's are used."""
    return to_bytes(getattr(system, system.maker.show)(params, made))


@functools.partial(jax.jit, static_argnames="system")
def read(system: RowSystem, params: Params, pixels: UInt8[Array, "B height width 3"]) -> Array:
    """The codes or latents of pictures. Of the parameters, the image tokenizer's are used."""
    return getattr(system, system.maker.read)(params, to_signed(pixels, system.dtype))

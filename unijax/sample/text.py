"""Writing: text ids one by one after a prompt of text and pictures."""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Int, UInt32

from unijax.core.batch import PackedBatch
from unijax.core.system import Params, RowSystem
from unijax.sample.decoding import begin, grown, parts, row_keys, step
from unijax.sample.logits import Choice, choose


@functools.partial(jax.jit, static_argnames=("system", "space"))
def write_ids(
    system: RowSystem,
    params: Params,
    prompt: PackedBatch,
    length: Int[Array, "B"],
    ends: Int[Array, "E"],
    seeds: UInt32[Array, "B"],
    choice: Choice,
    limit: Int[Array, ""],
    space: int,
) -> Int[Array, "B space"]:
    """The ids that continue each row, up to the first of `ends`; behind that stand only ends.

    Stops when every row has reached its end, or after `limit` ids. What a row gets does not depend
    on the other rows.

    Args:
      params: as `system.for_decoding` lays them out.
      prompt: one document a row, in the last `length` columns; only inputs are read.
      length: of each prompt.
      ends: ids that end an answer.
      seeds: of each row.
      limit: ids at most, no more than `space`.
      space: static room for ids.
    """
    width = prompt.tokens.shape[1]
    start = width - length

    def choose_next(hidden, at):
        return choose(system.text_logits(params, hidden), row_keys(seeds, at), choice)

    def next_id(state):
        at, last, done, out, cache = state
        hidden, cache = step(system, params, system.embed_text(params, last), start, cache)
        new = jnp.where(done, last, choose_next(hidden, at))
        return at + 1, new, jnp.isin(new, ends), out.at[:, at].set(new), cache

    hidden, cache = begin(system, params, prompt, start)
    new = choose_next(hidden, 0)
    out = jnp.full((len(length), space), ends[0], jnp.int32).at[:, 0].set(new)
    state = jnp.int32(1), new, jnp.isin(new, ends), out, cache
    for _, end in parts(space - 1):
        at, last, done, out, cache = state
        state = at, last, done, out, grown(cache, width + end)

        def goes_on(state, end=end):
            at, _, done, _, _ = state
            return (at <= end) & (at < limit) & ~jnp.all(done)

        state = jax.lax.while_loop(goes_on, next_id, state)
    return state[3]

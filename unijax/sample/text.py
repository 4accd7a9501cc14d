"""Writing: text ids one by one after a prompt of text and pictures."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Int, UInt32

from unijax.core.batch import PackedBatch
from unijax.core.processes import to_host
from unijax.core.system import Params, RowSystem
from unijax.sample.decoding import begin, grown, parts, row_keys, step
from unijax.sample.logits import Choice, choose

_TOGETHER = 4  # ids that are written before a reader gets them


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
    state = _first(system, params, prompt, start, ends, seeds, choice, space)
    for _, end in parts(space - 1):
        *others, cache = state
        state = *others, grown(cache, width + end)
        until = jnp.minimum(end + 1, limit)
        state = _more(system, params, start, ends, seeds, choice, state, until)
    return state[3]


def stream_ids(
    system: RowSystem,
    params: Params,
    prompt: PackedBatch,
    length: Int[np.ndarray, "B"],
    ends: Int[np.ndarray, "E"],
    seeds: UInt32[np.ndarray, "B"],
    choice: Choice,
    limit: int,
    space: int,
) -> Iterator[Int[np.ndarray, "B written"]]:
    """The ids of `write_ids`, all that are written so far, a few more each time."""
    width = prompt.tokens.shape[1]
    start = width - length
    state = _first_alone(system, params, prompt, start, ends, seeds, choice, space=space)
    yield to_host(state[3])[:, :1].copy()  # the state is donated
    for at, end in parts(space - 1):
        *others, cache = state
        state = *others, grown(cache, width + end)
        for until in range(at + 1 + _TOGETHER, end + 1 + _TOGETHER, _TOGETHER):
            until = min(until, end + 1, limit)
            state = _more_alone(system, params, start, ends, seeds, choice, state, jnp.int32(until))
            written = int(state[0])
            yield to_host(state[3])[:, :written].copy()
            if written >= limit or bool(jnp.all(state[2])):
                return


def _chosen(system, params, hidden, seeds, at, choice: Choice) -> Int[Array, "B"]:
    return choose(system.text_logits(params, hidden), row_keys(seeds, at), choice)


def _first(system, params, prompt, start, ends, seeds, choice, space: int) -> tuple[Any, ...]:
    """How many ids are written, the last, whether a row is done, all of them, and the cache."""
    hidden, cache = begin(system, params, prompt, start)
    new = _chosen(system, params, hidden, seeds, 0, choice)
    out = jnp.full((len(start), space), ends[0], jnp.int32).at[:, 0].set(new)
    return jnp.int32(1), new, jnp.isin(new, ends), out, cache


def _more(system, params, start, ends, seeds, choice, state, until) -> tuple[Any, ...]:
    """The state when so many ids are written, or all rows are done."""

    def next_id(state):
        at, last, done, out, cache = state
        hidden, cache = step(system, params, system.embed_text(params, last), start, cache)
        new = jnp.where(done, last, _chosen(system, params, hidden, seeds, at, choice))
        return at + 1, new, jnp.isin(new, ends), out.at[:, at].set(new), cache

    def goes_on(state):
        at, _, done, _, _ = state
        return (at < until) & ~jnp.all(done)

    return jax.lax.while_loop(goes_on, next_id, state)


_first_alone = jax.jit(_first, static_argnames=("system", "space"))
_more_alone = jax.jit(_more, static_argnames="system", donate_argnames="state")

"""Which blocks of keys a block of queries must visit: exactly those that hold an allowed pair.

The pairs of a block of queries are not always one range of blocks of keys: queries that see nothing
may stand between others, and documents of queries may skip keys. So each block of queries has a
list. It is found from the ends of the intervals with binary searches, never from a mask.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Int

from unijax.ops.attention.intervals import seen_by_intervals

# Bits of `Steps.flags`.
FIRST, LAST, PARTIAL, FULL = 1, 2, 4, 8


class BlockMap(NamedTuple):
    """The blocks of columns that each block of rows visits.

    Attributes:
      index: int32 `[B, N, M]`, of each of N blocks of rows: first the blocks of columns with both
        allowed and hidden pairs, then those with no hidden pair; what follows is not visited.
      partial: int32 `[B, N]`, how many of the first kind.
      visited: int32 `[B, N]`, how many of both: its sum is the number of blocks visited.
    """

    index: Int[Array, "B N M"]
    partial: Int[Array, "B N"]
    visited: Int[Array, "B N"]


class Steps(NamedTuple):
    """The same as one list over all rows, for a grid that takes one step at a time.

    A block of rows that visits nothing has one step without PARTIAL or FULL, in which its result is
    made zero; such a step names the column block of a neighbouring step, so that none is loaded.

    Attributes:
      count: int32 `[]`, the steps in use.
      row: int32 `[B * N * M]`, the block of rows, counted through the batch: `b * N + n`.
      column: int32 `[B * N * M]`, the block of columns, `b * M + m`.
      flags: int32 `[B * N * M]`, FIRST and LAST step of its block of rows, PARTIAL or FULL.
    """

    count: Int[Array, ""]
    row: Int[Array, " S"]
    column: Int[Array, " S"]
    flags: Int[Array, " S"]


def visited_blocks(
    start: Int[Array, "B T"], end: Int[Array, "B T"], columns: int, block: int, column_block: int
) -> tuple[Bool[Array, "B N M"], Bool[Array, "B N M"]]:
    """Which blocks hold an allowed pair, and which hold no other.

    Args:
      start, end: position `t` pairs with the columns in `[start[t], end[t])`; neither decreases.
      columns: number of columns.
      block, column_block: sizes. A last block that is not filled by columns is never full.
    """
    t = start.shape[1]
    n, m = -(-t // block), -(-columns // column_block)
    filling = ((0, 0), (0, n * block - t))  # repeats the last position, which adds no block
    start, end = (jnp.pad(x, filling, mode="edge") for x in (start, end))
    left = jnp.arange(m, dtype=jnp.int32) * column_block
    # Of the positions that end after a block begins and start before it ends, those between two
    # limits, every one with a column at all has one in the block.
    first = jax.vmap(lambda x: jnp.searchsorted(x, left, side="right"))(end)
    after = jax.vmap(lambda x: jnp.searchsorted(x, left + column_block, side="left"))(start)
    below = jnp.arange(n, dtype=jnp.int32)[:, None] * block
    lo, hi = (jnp.clip(x[:, None], below, below + block) for x in (first, after))
    paired = jnp.pad(jnp.cumsum(start < end, axis=1, dtype=jnp.int32), ((0, 0), (1, 0)))
    count = jax.vmap(lambda c, i: c[i])
    some = count(paired, hi) - count(paired, lo) > 0
    full = start[:, block - 1 :: block, None] <= left
    full &= end[:, ::block, None] >= left + column_block
    return some, full


def block_map(
    start: Int[Array, "B T"], end: Int[Array, "B T"], columns: int, block: int, column_block: int
) -> BlockMap:
    """The blocks of keys for each block of queries. Arguments as of `visited_blocks`."""
    some, full = visited_blocks(start, end, columns, block, column_block)
    order = jnp.where(some, jnp.where(full, 1, 0), 2)
    index = jnp.argsort(order, axis=-1, stable=True).astype(jnp.int32)
    count = [jnp.sum(x, axis=-1, dtype=jnp.int32) for x in (some & ~full, some)]
    return BlockMap(index, *count)


def transposed_block_map(
    start: Int[Array, "B Tq"], end: Int[Array, "B Tq"], k_len: int, block_q: int, block_k: int
) -> BlockMap:
    """The blocks of queries for each block of keys, from the same intervals of the queries."""
    return block_map(*seen_by_intervals(start, end, k_len), start.shape[1], block_k, block_q)


def steps(blocks: BlockMap) -> Steps:
    """The map as one list of steps."""
    b, n, m = blocks.index.shape
    visited, partial = blocks.visited.reshape(-1), blocks.partial.reshape(-1)
    taken = jnp.maximum(visited, 1)
    after = jnp.cumsum(taken, dtype=jnp.int32)
    at = jnp.arange(b * n * m, dtype=jnp.int32)
    row = jnp.repeat(jnp.arange(b * n, dtype=jnp.int32), taken, total_repeat_length=b * n * m)
    turn = at - (after - taken)[row]
    column = blocks.index.reshape(b * n, m)[row, jnp.clip(turn, 0, m - 1)] + row // n * m
    seen = (turn < visited[row]) & (at < after[-1])
    # A step without columns borrows those of the last step that had some, or of the first of all.
    lender = jax.lax.cummax(jnp.where(seen, at, -1))
    column = column[jnp.where(lender < 0, jnp.argmax(seen), lender)]
    flags = jnp.where(turn == 0, FIRST, 0) | jnp.where(turn == taken[row] - 1, LAST, 0)
    flags |= jnp.where(seen, jnp.where(turn < partial[row], PARTIAL, FULL), 0)
    return Steps(after[-1], row, column, flags.astype(jnp.int32))

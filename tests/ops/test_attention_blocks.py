"""The blocks that are visited, against those of a dense mask: exactly the ones with a pair."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops.rows import packed_rows
from unijax.core.batch import Kind
from unijax.ops.attention.blocks import (
    FIRST,
    FULL,
    LAST,
    PARTIAL,
    block_map,
    steps,
    transposed_block_map,
)
from unijax.ops.attention.intervals import packed_intervals

B = 2
SIZES = [(24, 24, 8, 8), (24, 24, 4, 6), (23, 17, 5, 4), (3, 30, 8, 7)]  # Tq, Tk, blocks


@functools.cache
def maps(k_len, block_q, block_k):
    def of(start, end):
        forward = block_map(start, end, k_len, block_q, block_k)
        transposed = transposed_block_map(start, end, k_len, block_q, block_k)
        return forward, steps(forward), transposed, steps(transposed)

    return jax.jit(of)


def tiles(mask, block_q, block_k):
    """For each pair of blocks: whether any pair is allowed, and whether all are.

    Queries past the end are none; keys past the end are hidden.
    """
    b, tq, tk = mask.shape
    nq, nk = -(-tq // block_q), -(-tk // block_k)
    some, every = np.zeros((2, b, nq, nk), bool)
    for row, i, j in np.ndindex(some.shape):
        tile = mask[row, i * block_q : (i + 1) * block_q, j * block_k : (j + 1) * block_k]
        some[row, i, j] = tile.any()
        every[row, i, j] = tile.all() and tile.shape[1] == block_k
    return some, every


def check(found, listed, some, every):
    """A map and its list of steps name just the blocks of `some`, and of `every` as full."""
    index, partial, visited = map(np.asarray, found)
    assert visited.sum() == some.sum()
    for row, i in np.ndindex(visited.shape):
        of = index[row, i, : visited[row, i]]
        assert set(of[: partial[row, i]]) == set(np.flatnonzero(some[row, i] & ~every[row, i]))
        assert set(of[partial[row, i] :]) == set(np.flatnonzero(every[row, i]))

    count, row, column, flags = map(np.asarray, listed)
    row, column, flags = row[:count], column[:count], flags[:count]
    blind = ~some.any(-1)
    assert count == some.sum() + blind.sum()
    n, m = some.shape[1:]
    assert (np.diff(row) >= 0).all()
    np.testing.assert_array_equal((flags & FIRST) > 0, np.diff(row, prepend=-1) > 0)
    np.testing.assert_array_equal((flags & LAST) > 0, np.diff(row, append=B * n) > 0)
    for kind, wanted in (PARTIAL, some & ~every), (FULL, every):
        there = (flags & kind) > 0
        assert (row[there] // n == column[there] // m).all()
        pairs = np.zeros((B * n, m), int)
        np.add.at(pairs, (row[there], column[there] % m), 1)
        np.testing.assert_array_equal(pairs.reshape(some.shape), wanted)
    # A step without a pair loads nothing: its columns are those of a neighbour that has some.
    idle = (flags & (PARTIAL | FULL)) == 0
    np.testing.assert_array_equal(np.unique(row[idle]), np.flatnonzero(blind.reshape(-1)))
    if some.any():
        loads = 1 + (np.diff(column) != 0).sum()
        assert loads <= some.sum()


def check_both_ways(start, end, k_len, block_q, block_k):
    key = np.arange(k_len)
    mask = (key >= start[..., None]) & (key < end[..., None])
    found = maps(k_len, block_q, block_k)(jnp.asarray(start), jnp.asarray(end))
    check(*found[:2], *tiles(mask, block_q, block_k))
    check(*found[2:], *tiles(mask.swapaxes(1, 2), block_k, block_q))


@settings(max_examples=40, deadline=None)
@given(
    packed_rows(B, 24),
    st.sampled_from([(), (Kind.GEN,), (Kind.UND, Kind.GEN)]),
    st.sampled_from(SIZES[:2]),
)
def test_packed_rows_visit_the_exact_minimum(fields, whole, sizes):
    start, end = packed_intervals(*map(jnp.asarray, fields), whole)
    check_both_ways(np.asarray(start), np.asarray(end), *sizes[1:])


@st.composite
def any_intervals(draw):
    """Non-decreasing ends, with queries that see nothing and gaps anywhere."""
    sizes = draw(st.sampled_from(SIZES))
    tq, tk = sizes[:2]
    ends = st.lists(st.integers(0, tk), min_size=tq, max_size=tq).map(sorted)
    start = np.array([draw(ends) for _ in range(B)], np.int32)
    end = np.array([draw(ends) for _ in range(B)], np.int32)
    return sizes, start, np.maximum(start, end)


@settings(max_examples=60, deadline=None)
@given(any_intervals())
def test_any_intervals_visit_the_exact_minimum(case):
    (_, *sizes), start, end = case
    check_both_ways(start, end, *sizes)


def test_a_gap_inside_a_block_is_not_visited():
    """Two queries of one block that see the first and the last keys: not what lies between."""
    start, end = np.array([[0, 9]] * B, np.int32), np.array([[2, 10]] * B, np.int32)
    found, *_ = maps(10, 2, 2)(start, end)
    assert found.visited.tolist() == [[2]] * B
    assert (
        found.index[:, 0, :2].tolist() == [[4, 0]] * B
        or found.index[:, 0, :2].tolist() == [[0, 4]] * B
    )
    check_both_ways(start, end, 10, 2, 2)

"""Intervals against masks written pair by pair."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops.rows import packed_rows
from unijax.core.batch import Kind
from unijax.core.errors import UserError
from unijax.ops.attention.intervals import (
    check_intervals,
    full_intervals,
    packed_intervals,
    seen_by_intervals,
)

T = 24


def slow_mask(segment, kind, image, whole_span_kinds):
    mask = np.zeros((*segment.shape, segment.shape[1]), bool)
    for row, q, k in np.ndindex(mask.shape):
        same_image = image[row, q] == image[row, k] > 0
        mask[row, q, k] = (
            kind[row, q] != Kind.PAD
            and segment[row, q] == segment[row, k]
            and (k <= q or (same_image and kind[row, q] in whole_span_kinds))
        )
    return mask


@settings(max_examples=60, deadline=None)
@given(packed_rows(2, T), st.sampled_from([(), (Kind.GEN,), (Kind.UND, Kind.GEN)]))
def test_packed_intervals_are_the_mask(fields, whole):
    segment, kind, image = fields
    start, end = packed_intervals(*map(jnp.asarray, fields), whole_span_kinds=whole)
    start, end = np.asarray(start), np.asarray(end)
    check_intervals(start, end, T)
    key = np.arange(T)
    visible = (key >= start[..., None]) & (key < end[..., None])
    want = slow_mask(segment, kind, image, whole)
    np.testing.assert_array_equal(visible, want)
    for host, device in zip(packed_intervals(*fields, whole_span_kinds=whole), (start, end)):
        assert isinstance(host, np.ndarray)
        assert host.dtype == np.int32
        np.testing.assert_array_equal(host, device)

    q_start, q_end = seen_by_intervals(jnp.asarray(start), jnp.asarray(end), T)
    seen_by = (key >= q_start[..., None]) & (key < q_end[..., None])
    np.testing.assert_array_equal(seen_by, want.swapaxes(1, 2))


def test_padding_widens_no_block():
    segment = jnp.array([[1, 1, 1, 2, 2, 0, 0, 0]])
    start, end = packed_intervals(segment, (segment > 0).astype(int), jnp.zeros_like(segment))
    assert start.dtype == end.dtype == jnp.int32
    assert start.tolist() == [[0, 0, 0, 3, 3, 5, 5, 5]]
    assert end.tolist() == [[1, 2, 3, 4, 5, 5, 5, 5]]


def test_full_intervals():
    start, end = full_intervals(2, 3, 5)
    assert start.tolist() == [[0] * 3] * 2
    assert end.tolist() == [[5] * 3] * 2


@pytest.mark.parametrize(
    ("start", "end", "where", "found"),
    [
        ([0, 2, 1], [1, 3, 3], "row 1, position 2", "decreasing kv_start: [1, 3)"),
        ([0, 0, 0], [1, 3, 2], "row 1, position 2", "decreasing kv_end: [0, 2)"),
        ([0, 3, 3], [1, 2, 3], "row 1, position 1", "kv_end < kv_start: [3, 2)"),
        ([-1, 0, 0], [1, 2, 3], "row 1, position 0", "kv_start < 0: [-1, 1)"),
        ([0, 0, 0], [1, 2, 4], "row 1, position 2", "kv_end > 3: [0, 4)"),
    ],
)
def test_check_intervals_names_the_place(start, end, where, found):
    good = [[0, 0, 0], [1, 2, 3]]
    with pytest.raises(UserError) as error:
        check_intervals(np.array([good[0], start]), np.array([good[1], end]), 3)
    assert (error.value.where, error.value.found) == (f"attention interval of {where}", found)

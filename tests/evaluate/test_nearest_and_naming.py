"""Nearest pictures against all pairs; names that are the same."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unijax.evaluate.naming import same_name
from unijax.evaluate.nearest import as_rows, nearest, squared_distances


@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 1100), st.integers(1, 9))
def test_nearest_is_the_argmin_of_all_pairs(seed, n, m, d):
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=(n, d)).astype(np.float32)
    real = rng.normal(size=(m, d)).astype(np.float32)
    right = rng.integers(0, m, n)
    slow = ((drawn[:, None].astype(np.float64) - real[None]) ** 2).sum(-1)
    np.testing.assert_allclose(squared_distances(drawn, real), slow, atol=1e-9)
    found, rank = nearest(drawn, real, right)
    np.testing.assert_array_equal(found, slow.argmin(1))
    np.testing.assert_array_equal(rank, (slow < slow[np.arange(n), right][:, None]).sum(1))


def test_pictures_that_differ_in_one_value_are_told_apart():
    """Rounding of float32 sums once made the wrong one of two almost equal pictures the nearest."""
    rng = np.random.default_rng(0)
    real = rng.integers(0, 256, (2, 64, 64, 3), np.uint8)
    real[1] = real[0]
    real[1, 5, 5, 0] ^= 1
    found, rank = nearest(as_rows(real), as_rows(real), np.array([0, 1]))
    np.testing.assert_array_equal(found, [0, 1])
    np.testing.assert_array_equal(rank, [0, 0])


@pytest.mark.parametrize(
    ("answer", "name", "same"),
    [
        ("Red apple.", "red apple", True),
        ("waving hand: dark skin tone", "waving hand dark skin tone", True),
        ("  piñata ", "Piñata", True),
        ("snow_man", "snow man", True),
        ("red", "red apple", False),
        ("red apple red apple", "red apple", False),
        ("", "?", False),
    ],
)
def test_a_name_is_exact_but_for_case_punctuation_and_spaces(answer, name, same):
    assert same_name(answer, name) is same

"""Bicubic resizing against PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unijax.ops.resize import resize_bicubic, resize_positions


def reference(x: np.ndarray, height: int, width: int) -> np.ndarray:
    out = torch.nn.functional.interpolate(
        torch.from_numpy(x).permute(2, 0, 1)[None],
        size=(height, width),
        mode="bicubic",
        align_corners=False,
    )
    return out[0].permute(1, 2, 0).numpy()


RESIZE = jax.jit(resize_bicubic, static_argnums=(1, 2))
SIDES = st.tuples(st.sampled_from([1, 3, 16]), st.sampled_from([2, 14]))


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES | st.just((7, 24)), st.integers(0, 9))
def test_equals_pytorch(old, new, seed):
    x = np.random.default_rng(seed).normal(size=(*old, 3)).astype(np.float32)
    found = np.asarray(RESIZE(jnp.asarray(x), *new))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, reference(x, *new), atol=2e-5)


def test_jax_image_has_another_kernel():
    # Otherwise it would be one line here.
    x = np.random.default_rng(0).normal(size=(16, 16, 4)).astype(np.float32)
    wanted = reference(x, 24, 24)
    assert np.abs(np.asarray(resize_bicubic(x, 24, 24)) - wanted).max() < 1e-5
    for antialias in (False, True):
        theirs = jax.image.resize(x, (24, 24, 4), "bicubic", antialias=antialias)
        assert np.abs(np.asarray(theirs) - wanted).max() > 1e-2


@pytest.mark.parametrize("first", [0, 1, 2])
def test_rows_before_the_patches_stay(first):
    table = np.random.default_rng(0).normal(size=(first + 25, 4)).astype(np.float32)
    found = np.asarray(resize_positions(table, 7, first))
    assert found.shape == (first + 49, 4)
    np.testing.assert_array_equal(found[:first], table[:first])
    wanted = reference(table[first:].reshape(5, 5, 4), 7, 7).reshape(49, 4)
    np.testing.assert_allclose(found[first:], wanted, atol=1e-5)


def test_the_same_grid_is_the_same_table():
    table = np.random.default_rng(0).normal(size=(17, 4)).astype(np.float32)
    np.testing.assert_array_equal(resize_positions(table, 4), table)

"""Pixel ranges against the formulas of the released code, in numpy."""

import jax.numpy as jnp
import numpy as np
import pytest

from unijax.ops.image import to_bytes, to_signed

EVERY = np.arange(256, dtype=np.uint8)[:, None].repeat(3, axis=1)  # [256, 3]


def test_signed_is_mean_and_deviation_of_one_half():
    want = (EVERY / 255.0 - 0.5) / 0.5
    got = np.asarray(to_signed(jnp.asarray(EVERY)))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert (got.min(), got.max()) == (-1.0, 1.0)


def test_signed_is_rounded_once():
    half = to_signed(jnp.asarray(EVERY), jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half, to_signed(jnp.asarray(EVERY)).astype(jnp.bfloat16))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_bytes_are_clipped_and_cut_as_numpy_does(dtype):
    x = jnp.linspace(-1.7, 1.7, 3 * 999).reshape(9, 111, 3).astype(dtype)
    shown = np.clip((np.asarray(x, np.float32) + 1) * np.float32(127.5), 0, 255)
    got = np.asarray(to_bytes(x))
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, shown.astype(np.uint8))
    assert (got.min(), got.max()) == (0, 255)


def test_there_and_back_is_off_by_one_at_most():
    """Cutting, as the released code does, turns 99.99999 into 99."""
    back = np.asarray(to_bytes(to_signed(jnp.asarray(EVERY)))).astype(int)
    difference = EVERY.astype(int) - back
    assert set(np.unique(difference)) <= {0, 1}

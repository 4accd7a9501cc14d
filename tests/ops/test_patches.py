"""Patches against squares cut out one by one, and their inverse."""

import jax.numpy as jnp
import numpy as np
import pytest

from unijax.ops.patches import patchify, unpatchify


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_patches_in_raster_order_and_back(size):
    picture = np.random.default_rng(0).normal(size=(2, 8, 16, 3)).astype("f4")
    patches = patchify(jnp.asarray(picture), size)
    assert patches.shape == (2, 8 * 16 // size**2, size * size * 3)
    columns = 16 // size
    for i in range(patches.shape[1]):
        row, column = divmod(i, columns)
        square = picture[:, row * size :, column * size :][:, :size, :size]
        np.testing.assert_array_equal(patches[:, i], square.reshape(2, -1))
    np.testing.assert_array_equal(unpatchify(patches, size, 8), picture)

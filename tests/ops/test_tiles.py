"""Parts of a picture, and the whole made small, against PIL and what transformers cuts."""

import io
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from transformers.image_transforms import divide_to_patches

from tests.walk import product_flops
from unijax.core.paths import assets_dir
from unijax.data.builders.shards import read_shards
from unijax.ops.image import to_signed
from unijax.ops.tiles import cut, in_one_grid, shrink, shrink_flops, views

SHRINK = jax.jit(shrink, static_argnums=1)


def random_pictures(side: int) -> np.ndarray:
    """Noise of all levels, and of the darkest and the brightest alone, which overshoots most."""
    noise = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return np.stack([noise, (noise > 127) * np.uint8(255)])


def natural_pictures(side: int) -> np.ndarray:
    """Of the shipped pages, whose figures show photographs."""
    found = []
    for record, read in itertools.islice(read_shards(assets_dir() / "pages"), 20):
        for part in record["parts"]:
            if "image" in part:
                picture = Image.open(io.BytesIO(read(part["image"]))).convert("RGB")
                found.append(np.asarray(picture.resize((side, side), Image.Resampling.LANCZOS)))
    return np.stack(found)


def levels(signed: jax.Array) -> np.ndarray:
    return np.round((np.asarray(signed, np.float32) + 1) * 127.5).astype(int)


def off_by(pictures: np.ndarray, size: int, dtype=jnp.float32) -> np.ndarray:
    """Levels between ours and PIL's."""
    small = [Image.fromarray(p).resize((size, size), Image.Resampling.BICUBIC) for p in pictures]
    found = SHRINK(to_signed(jnp.asarray(pictures), dtype), size)
    assert found.dtype == dtype
    return np.abs(levels(found) - np.stack([np.asarray(p) for p in small]).astype(int))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("pictures", [random_pictures, natural_pictures])
def test_half_the_side_is_pils_to_the_bit(pictures, dtype):
    for size in (7, 96):
        given = pictures(2 * size)
        assert len(given) > 1
        assert off_by(given, size, dtype).max() == 0


@pytest.mark.parametrize("tiles", [3, 4, 5])
def test_other_sides_are_pils_to_a_level(tiles):
    """Its weights are whole numbers of 22 bits: halves of a level may fall on either side."""
    for pictures in (random_pictures, natural_pictures):
        off = off_by(pictures(tiles * 24), 24)
        assert off.max() <= 1
        assert (off > 0).mean() < 0.01


def test_flops_are_those_of_the_program():
    pixels = jnp.zeros((2, 24, 24, 3))
    program = jax.make_jaxpr(lambda x: shrink(x, 8))(pixels)
    assert product_flops(program) == 2 * shrink_flops(24, 8)


@pytest.mark.parametrize("tiles", [2, 3])
def test_parts_are_those_of_transformers(tiles):
    side = 4 * tiles
    pixels = to_signed(jnp.asarray(random_pictures(side)))
    found = cut(pixels, tiles)
    assert found.shape == (2, views(tiles), 4, 4, 3)
    np.testing.assert_array_equal(found[:, 0], shrink(pixels, 4))
    for picture, parts in zip(np.moveaxis(np.asarray(pixels), -1, 1), found[:, 1:], strict=True):
        wanted = divide_to_patches(picture, patch_size=4)
        np.testing.assert_array_equal(np.moveaxis(np.asarray(parts), -1, 1), wanted)


def test_features_of_parts_make_one_grid():
    """A picture whose pixels are its features comes back."""
    picture = jnp.arange(2 * 6 * 6 * 3.0).reshape(2, 6, 6, 3)
    features = cut(picture, 3).reshape(2, views(3), 4, 3)
    found = in_one_grid(features, 3)
    np.testing.assert_array_equal(found[:, :4], features[:, 0])
    np.testing.assert_array_equal(found[:, 4:], picture.reshape(2, 36, 3))


def test_one_part_is_the_picture_itself():
    picture = jnp.arange(2 * 4 * 4 * 3.0).reshape(2, 4, 4, 3)
    assert views(1) == 1
    np.testing.assert_array_equal(cut(picture, 1)[:, 0], picture)
    features = picture.reshape(2, 1, 16, 3)
    np.testing.assert_array_equal(in_one_grid(features, 1), features[:, 0])

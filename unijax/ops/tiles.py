"""A picture of several times its tower's side: the whole of it made small, and its parts.

LLaVA-NeXT's squares (transformers' `image_processing_llava_next.py` and `pack_image_features`): a
tower sees the whole at its own size, then the parts in raster order, and of the features of the
parts one grid is made again. One part a side is the picture itself, which is seen once.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


def views(tiles: int) -> int:
    """V, pictures that the tower sees of one that has so many parts a side."""
    return 1 if tiles == 1 else 1 + tiles**2


def cut(
    pixels: Float[Array, "B side side 3"], tiles: int
) -> Float[Array, "B V tile_side tile_side 3"]:
    """The whole, and where there are several parts these, of pictures in -1..1."""
    if tiles == 1:
        return pixels[:, None]
    b, size = len(pixels), pixels.shape[1] // tiles
    parts = pixels.reshape(b, tiles, size, tiles, size, 3).swapaxes(2, 3)
    parts = parts.reshape(b, tiles**2, size, size, 3)
    return jnp.concatenate([shrink(pixels, size)[:, None], parts], axis=1)


def in_one_grid(features: Float[Array, "B V N D"], tiles: int) -> Float[Array, "B M D"]:
    """Features of the whole, and behind them the parts' in raster order of the whole picture."""
    b, _, n, d = features.shape
    whole, parts = features[:, 0], features[:, 1:]
    if tiles == 1:
        return whole
    side = round(n**0.5)
    grid = parts.reshape(b, tiles, tiles, side, side, d).swapaxes(2, 3)
    return jnp.concatenate([whole, grid.reshape(b, tiles**2 * n, d)], axis=1)


def shrink(pixels: Float[Array, "B side side 3"], size: int) -> Float[Array, "B size size 3"]:
    """Pictures in -1..1 made smaller, level by level what PIL's `BICUBIC` makes of their bytes.

    PIL goes along the rows, then along the columns, and each time rounds to one of 256 levels.
    """
    b, side, _, _ = pixels.shape
    # Those of the bytes, whatever dtype the pixels came in.
    levels = jnp.round((pixels.astype(jnp.float32) + 1.0) * 127.5)
    for shape in ((b, side, size, 3), (b, size, size, 3)):
        levels = jnp.floor(jax.image.resize(levels, shape, "cubic") + 0.5)
        levels = jnp.clip(levels, 0.0, 255.0)
    return (levels / 127.5 - 1.0).astype(pixels.dtype)


def shrink_flops(side: int, size: int) -> int:
    """Of the matrix products of `shrink`, 2 per multiply-add."""
    return 2 * 3 * side * size * (side + size)

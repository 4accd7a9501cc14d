"""Resizing as PyTorch does it: what published weights were brought to another grid with."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

A = -0.75  # of the cubic kernel; `jax.image` and PIL have -0.5


def resize_bicubic(
    x: Float[Array | np.ndarray, "height width *channels"], height: int, width: int
) -> Float[Array, "new_height new_width *channels"]:
    """`interpolate(x, mode="bicubic", align_corners=False, antialias=False)`, in float32.

    Each new value is a sum of four by four old ones, those beyond an edge being the edge's; where
    the picture becomes smaller, those between are not looked at.
    """
    x = jnp.asarray(x, jnp.float32)
    dot = lambda m, y: jnp.tensordot(m, y, 1, precision=jax.lax.Precision.HIGHEST)  # noqa: E731
    rows = dot(_weights(x.shape[0], height), x)
    return dot(_weights(x.shape[1], width), rows.swapaxes(0, 1)).swapaxes(0, 1)


def pool_bilinear(x: Float[Array, "B N D"], grid: int) -> Float[Array, "B M D"]:
    """Features of a square of patches as those of `grid` by `grid`, in raster order, float32.

    `interpolate(x, mode="bilinear", align_corners=False)`: no value between is looked at where the
    square becomes smaller (antialias off).
    """
    b, n, d = x.shape
    side = math.isqrt(n)
    assert side * side == n, n
    square = x.astype(jnp.float32).reshape(b, side, side, d)
    pooled = jax.image.resize(square, (b, grid, grid, d), "bilinear", antialias=False)
    return pooled.reshape(b, grid * grid, d)


def resize_positions(
    table: Float[Array | np.ndarray, "rows D"], grid: int, first: int = 1
) -> Float[Array, "new_rows D"]:
    """A table of positions for pictures of `grid` by `grid` patches.

    Args:
      first: rows before those of the patches, which stay: that of a class token.
    """
    old = math.isqrt(len(table) - first)
    assert old * old == len(table) - first, (len(table), first)
    patches = resize_bicubic(table[first:].reshape(old, old, -1), grid, grid)
    return jnp.concatenate([jnp.asarray(table[:first]), patches.reshape(grid * grid, -1)])


def _weights(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Of every old value in every new one."""
    at = (np.arange(new, dtype=np.float64) + 0.5) * (old / new) - 0.5
    below = np.floor(at).astype(int)
    out = np.zeros((new, old), np.float64)
    for tap in range(-1, 3):
        distance = np.abs(at - (below + tap))
        near = ((A + 2) * distance - (A + 3)) * distance**2 + 1
        far = ((A * distance - 5 * A) * distance + 8 * A) * distance - 4 * A
        weight = np.where(distance <= 1, near, far)
        np.add.at(out, (np.arange(new), np.clip(below + tap, 0, old - 1)), weight)
    return out.astype(np.float32)

"""Which real picture is nearest to a drawn one."""

import numpy as np
from jaxtyping import Float, Int, UInt8

_CHUNK = 512  # real rows at a time


def squared_distances(
    drawn: Float[np.ndarray, "n d"], real: Float[np.ndarray, "m d"]
) -> Float[np.ndarray, "n m"]:
    """Between all pairs of rows.

    In float64, by chunks of `real`: rounding of the large sums whose difference this is would
    otherwise decide between pictures that are almost the same.
    """
    drawn = drawn.astype(np.float64)
    square = (drawn**2).sum(1)[:, None]
    parts = []
    for at in range(0, len(real), _CHUNK):
        some = real[at : at + _CHUNK].astype(np.float64)
        parts.append(square + (some**2).sum(1)[None] - 2 * drawn @ some.T)
    return np.maximum(np.concatenate(parts, axis=1), 0.0)


def as_rows(pictures: UInt8[np.ndarray, "n *size"]) -> Float[np.ndarray, "n d"]:
    """Pixels in 0..1, a row a picture."""
    return pictures.reshape(len(pictures), -1).astype(np.float32) / 255.0


def nearest(
    drawn: Float[np.ndarray, "n d"],
    real: Float[np.ndarray, "m d"],
    right: Int[np.ndarray, " n"],
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Index of the nearest real row, and the rank of the right one (0: none is nearer).

    Args:
      drawn, real: pixels (`as_rows`) or features.
      right: index in `real` of the picture that each drawn one should be.
    """
    distance = squared_distances(drawn, real)
    own = distance[np.arange(len(drawn)), right]
    return distance.argmin(axis=1), (distance < own[:, None]).sum(axis=1)

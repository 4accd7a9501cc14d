"""Which real picture is nearest to a drawn one."""

import numpy as np
from jaxtyping import Float, Int, UInt8


def squared_distances(
    drawn: Float[np.ndarray, "n d"], real: Float[np.ndarray, "m d"]
) -> Float[np.ndarray, "n m"]:
    """Between all pairs of rows."""
    cross = drawn @ real.T
    return (drawn**2).sum(1)[:, None] + (real**2).sum(1)[None] - 2 * cross


def as_rows(pictures: UInt8[np.ndarray, "n *size"]) -> Float[np.ndarray, "n d"]:
    """Pixels in 0..1, a row a picture."""
    return pictures.reshape(len(pictures), -1).astype(np.float32) / 255.0


def nearest(
    drawn: Float[np.ndarray, "n d"],
    real: Float[np.ndarray, "m d"],
    right: Int[np.ndarray, " n"],
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Index of the nearest real row, and the rank of the right one (0: it is the nearest).

    Args:
      drawn, real: pixels (`as_rows`) or features.
      right: index in `real` of the picture that each drawn one should be.
    """
    distance = squared_distances(drawn, real)
    own = distance[np.arange(len(drawn)), right]
    return distance.argmin(axis=1), (distance < own[:, None]).sum(axis=1)

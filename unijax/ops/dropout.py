"""Dropout (arXiv 1207.0580) whose bits belong to a place in the data, not in the batch."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer, Key, PyTree


def dropout(
    x: Float[Array, "*place D"],
    rate: float | Float[Array, ""],
    key: Key[Array, ""],
    place: PyTree[Integer[Array, "*place"]],
) -> Float[Array, "*place D"]:
    """`x` with a share `rate` of its values zero, the others scaled to the same mean.

    Args:
      key: of this use of dropout: of the step and the layer.
      place: what names a position wherever it stands, such as its document and its index in it. The
        bits of a position are a function of `key` and of these numbers alone.
    """
    numbers = jax.tree.leaves(place)

    def keep(*at: Array) -> Array:
        mine = key
        for number in at:
            mine = jax.random.fold_in(mine, number)
        return jax.random.bernoulli(mine, 1 - rate, x.shape[-1:])

    # Dim by dim: as one dim, positions that are split over devices would have to move.
    for _ in range(x.ndim - 1):
        keep = jax.vmap(keep)
    return jnp.where(keep(*numbers), x / (1 - rate), 0)

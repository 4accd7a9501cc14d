"""Rotary positions of pictures within texts: time, row and column (M-RoPE, arXiv 2409.12191)."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Int


def grid_positions(
    position: Int[Array, "B T"], here: Bool[Array, "B T"], side: int
) -> tuple[Int[Array, "B T 3"], Int[Array, "B"]]:
    """Positions of three axes, and how far the end of each row's last document is drawn back.

    A picture of side x side tokens that follows what ends at p has time p + 1, rows and columns
    from p + 1 on; what follows it goes on at p + 1 + side. Of words all three are the same.

    Args:
      position: from 0 in each document, one by one.
      here: whether a token is one of a picture; each picture has all of its tokens in a run.
    """
    n, index = side * side, jnp.arange(position.shape[1], dtype=jnp.int32)
    before = jnp.pad(here[:, :-1], ((0, 0), (1, 0)))
    began = jax.lax.cummax(jnp.where(here & ~before, index, -1), axis=1)
    offset = jnp.where(here, (index - began) % n, 0)
    ended = (here & (offset == n - 1)).astype(jnp.int32)
    earlier = jnp.cumsum(ended, axis=1) - ended  # pictures of the row that ended before
    first = position == 0
    of_others = jax.lax.cummax(jnp.where(first, earlier, 0), axis=1)
    drawn_back = (earlier - of_others) * (n - side)
    start = position - drawn_back - offset
    row, column = offset // side, offset % side
    axes = jnp.stack([start, start + row, start + column], axis=-1)
    return axes, drawn_back[:, -1] + ended[:, -1] * (n - side)

"""LLaVA's projector: features of a picture's patches as the tokens that a decoder reads.

Linear, GELU, Linear (arXiv 2310.03744). LLaVA-OneVision (arXiv 2408.03326, section 4.2) shows a
picture that is no larger than its tower twice, whole and as its one part, whose rows end with a
learned vector. LLaVA-NeXT shows a larger one whole and in parts, which make one grid of rows.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from unijax.core import axes
from unijax.nn.layers import DEFAULT_INIT
from unijax.nn.projector import Projector
from unijax.ops.tiles import views


class PictureTokens(nn.Module):
    """The projector, and the vector at the end of a row where there is one.

    Attributes:
      features: width of the decoder.
      newline: whether rows end with a vector, and the picture comes twice.
      tiles: parts of a side; what comes in is as `ops.tiles.in_one_grid` has it.
    """

    features: int
    newline: bool
    tiles: int = 1
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch N d_in"]) -> Float[Array, "*batch M D"]:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        whole = Projector(self.features, name="projector", **kinds)(x)
        if not self.newline:
            return whole
        grid = whole
        if self.tiles > 1:
            whole, grid = jnp.split(whole, [x.shape[-2] // views(self.tiles)], axis=-2)
        init = nn.with_logical_partitioning(DEFAULT_INIT, (axes.EMBED,))
        newline = self.param("image_newline", init, (self.features,), self.param_dtype)
        side = round(grid.shape[-2] ** 0.5)
        rows = grid.reshape(*grid.shape[:-2], side, side, self.features)
        ends = jnp.broadcast_to(newline.astype(self.dtype), (*rows.shape[:-2], 1, self.features))
        rows = jnp.concatenate([rows, ends], axis=-2)
        rows = rows.reshape(*grid.shape[:-2], side * (side + 1), self.features)
        return jnp.concatenate([whole, rows], axis=-2)


def picture_tokens(patches: int, newline: bool, tiles: int = 1) -> int:
    """M, of so many patches of a square picture, or of each of its parts."""
    side = tiles * round(patches**0.5)
    return patches + side * (side + 1) if newline else patches

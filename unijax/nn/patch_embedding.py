"""Pixels to what a vision tower's encoder eats: projected patches, a class token, positions."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from unijax.core import axes
from unijax.nn.layers import DEFAULT_INIT, Dense, Embed, Initializer
from unijax.ops.patches import patchify


class PatchEmbedding(nn.Module):
    """Patches projected, plus a learned vector per position, behind a class token or without.

    `patch_embedding/kernel` is `[patch * patch * 3, D]`, rows in the order (row, column, channel)
    of a patch: a `[D, 3, p, p]` convolution weight, transposed to `[p, p, 3, D]` and flattened.

    Attributes:
      patches: N, of a picture.
      patch_size: pixels of a patch's side.
      features: D.
      class_token: a learned vector stands first; the table of positions begins with its row.
      mask_token: there is a learned vector that stands in for masked patches.
      gradient: what is passed on to the projection of patches of the gradient it would have:
        0.1 steadies a large model (GLM-130B, arXiv 2210.02414; EVA).
      patch_init, token_init: of the projection; of the class token, mask token and positions.
    """

    patches: int
    patch_size: int
    features: int
    use_bias: bool = True
    class_token: bool = False
    mask_token: bool = False
    gradient: float = 1.0
    patch_init: Initializer = DEFAULT_INIT
    token_init: Initializer = DEFAULT_INIT
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        pixels: Float[Array, "B height width 3"],
        masked: Bool[Array, "B N"] | None = None,
        kept: Int[Array, "B kept"] | None = None,
    ) -> Float[Array, "B tokens D"]:
        """The class token, if there is one, then the patches in raster order.

        Args:
          masked: True where the mask token stands in for the patch.
          kept: of every picture the indices of the patches that remain, all others being left out.
        """
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        first = int(self.class_token)
        rows = first + self.patches
        names = (axes.POSITIONS, axes.VISION_EMBED)
        table = Embed(
            rows, self.features, names, self.token_init, name="position_embedding", **kinds
        )
        positions = table(jnp.arange(rows))
        x, at = patchify(pixels, self.patch_size), positions[first:]
        if kept is not None:  # before the projection, which then has less to do
            x, at = jnp.take_along_axis(x, kept[..., None], axis=1), at[kept]
        names = (axes.PATCH, axes.VISION_EMBED)
        project = Dense(
            self.features, names, self.use_bias, self.patch_init, name="patch_embedding", **kinds
        )
        x = project(x)
        if self.gradient != 1.0:
            still = jax.lax.stop_gradient(x)
            x = still + self.gradient * (x - still)
        if self.mask_token:
            token = self._token("mask_token")
            if masked is not None:
                x = jnp.where(masked[..., None], token, x)
        x = x + at
        if self.class_token:
            token = self._token("class_embedding") + positions[0]
            token = jnp.broadcast_to(token, (x.shape[0], 1, self.features))
            x = jnp.concatenate([token, x], axis=1)
        return x

    def _token(self, name: str) -> Float[Array, " D"]:
        init = nn.with_logical_partitioning(self.token_init, (axes.VISION_EMBED,))
        return self.param(name, init, (self.features,), self.param_dtype).astype(self.dtype)

"""Linear patches of noisy latents: tokens for a transformer, and what is predicted back.

Transfusion's simpler image layers (arXiv 2408.11039, section 3.1, footnote 6 and table 7). The
other are `unet.PatchUNet`, which has the same methods.

The paper adds the timestep's vector to every patch before the linear layer, while its count of
parameters says that the vector is as wide as the transformer: so by default it is added behind.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from unijax.core import axes
from unijax.core.errors import UserError
from unijax.nn.layers import Dense
from unijax.nn.timestep import TimestepEmbedding
from unijax.ops.patches import patchify, unpatchify

SITES = ("token", "patch")


@dataclasses.dataclass(frozen=True)
class LatentPatchesConfig:
    """Shape of the patches.

    Raises:
      UserError: a patch size that does not divide the latents, or an unknown site.
    """

    latent_size: int = 32  # latents of a side
    latent_channels: int = 8
    patch_size: int = 2  # latents of a patch's side
    t_embed_site: str = "token"  # where the timestep is added: "token" or "patch"

    def __post_init__(self):
        if self.patch_size < 1 or self.latent_size % self.patch_size:
            raise UserError(
                "LatentPatchesConfig.patch_size",
                f"{self.patch_size}",
                f"a divisor of latent_size={self.latent_size}",
                "Change one of them; published models have patches of 1, 2, 4 and 8.",
            )
        if self.t_embed_site not in SITES:
            raise UserError(
                "LatentPatchesConfig.t_embed_site",
                repr(self.t_embed_site),
                f"one of {list(SITES)}",
                "Correct it.",
            )

    @property
    def num_tokens(self) -> int:
        """Patches of an image."""
        return (self.latent_size // self.patch_size) ** 2

    @property
    def patch_width(self) -> int:
        """Numbers of a patch."""
        return self.patch_size**2 * self.latent_channels

    def flops_per_image(self, width: int) -> int:
        """Of both layers, for tokens of `width`, and of the timestep; 2 per multiply-add."""
        end = width if self.t_embed_site == "token" else self.patch_width
        time = 2 * width * (TimestepEmbedding.frequencies + end)
        return 2 * 2 * self.num_tokens * self.patch_width * width + time


class LatentPatches(nn.Module):
    """The two linear layers. `init` through `__call__`, which reaches every parameter.

    Attributes:
      config: sizes.
      width: of a token.
    """

    config: LatentPatchesConfig
    width: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        cfg, kinds = self.config, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        at_token = cfg.t_embed_site == "token"
        self.time_embedding = TimestepEmbedding(
            self.width if at_token else cfg.patch_width,
            self.width,
            (axes.PATCH, axes.MLP, axes.EMBED if at_token else axes.PATCH),
            **kinds,
        )
        self.proj_in = Dense(self.width, (axes.PATCH, axes.EMBED), **kinds)
        self.proj_out = Dense(cfg.patch_width, (axes.EMBED, axes.PATCH), **kinds)

    def down(
        self, x: Float[Array, "B h w c"], timestep: Float[Array, " B"]
    ) -> tuple[Float[Array, "B N D"], tuple[()]]:
        """Tokens in raster order, and what `up` needs beside them: nothing."""
        patches = patchify(x.astype(self.dtype), self.config.patch_size)
        time = self.time_embedding(timestep)[:, None]
        if self.config.t_embed_site == "patch":
            return self.proj_in(patches + time), ()
        return self.proj_in(patches) + time, ()

    def up(
        self, tokens: Float[Array, "B N D"], timestep: Float[Array, " B"], skips: tuple[()] = ()
    ) -> Float[Array, "B h w c"]:
        """What is predicted, float32."""
        del timestep, skips
        patches = self.proj_out(tokens).astype(jnp.float32)
        return unpatchify(patches, self.config.patch_size, self.config.latent_size)

    def __call__(
        self, x: Float[Array, "B h w c"], timestep: Float[Array, " B"]
    ) -> Float[Array, "B h w c"]:
        """Both ways, with nothing between."""
        tokens, skips = self.down(x, timestep)
        return self.up(tokens, timestep, skips)

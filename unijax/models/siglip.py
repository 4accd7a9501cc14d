"""SigLIP vision tower: pixels to one feature per patch (arXiv 2303.15343; a ViT, arXiv 2010.11929).

Janus's tower is timm's `vit_large_patch16_siglip_384` without its pooling head, with exact (erf)
GELU; Google's SigLIP has the tanh form. The tree fits `model.vision_model.*` of transformers'
Janus, whose attention ends in `projection_layer` (`out_proj` in its `SiglipVisionModel`).
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from unijax.core.errors import UserError
from unijax.core.record import added
from unijax.nn.encoder import Encoder, EncoderConfig
from unijax.nn.layers import LayerNorm
from unijax.nn.patch_embedding import PatchEmbedding
from unijax.ops.attention import full_intervals

ACTIVATIONS = ("gelu", "gelu_tanh")
FEATURES = ("post_norm", "pre_norm")


@dataclasses.dataclass(frozen=True)
class SiglipConfig:
    """Shape of a tower. Field names are those of transformers' `SiglipVisionConfig`.

    Raises:
      UserError: sizes that do not divide, or an unknown name.
    """

    image_size: int = 384  # pixels of a side
    patch_size: int = 16
    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    layer_norm_eps: float = 1e-6
    hidden_act: str = "gelu"  # "gelu" is erf, as in Janus; "gelu_tanh" as in Google's SigLIP
    features: str = "post_norm"  # "post_norm": after the last norm; "pre_norm": without it
    kind: str = added("siglip")
    # Patches that leave pixels over at the right and at the bottom, as SO400M's of 14 of 384 do.
    leaves_pixels: bool = added(False)

    def __post_init__(self):
        if self.image_size % self.patch_size and not self.leaves_pixels:
            raise UserError(
                "SiglipConfig.image_size",
                f"{self.image_size}",
                f"a multiple of patch_size={self.patch_size}",
                "Change one of them, or set leaves_pixels.",
            )
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                "SiglipConfig.num_attention_heads",
                f"{self.num_attention_heads}",
                f"a divisor of hidden_size={self.hidden_size}",
                "Change one of them.",
            )
        for name, allowed in (
            ("hidden_act", ACTIVATIONS),
            ("features", FEATURES),
            ("kind", ("siglip",)),
        ):
            if getattr(self, name) not in allowed:
                raise UserError(
                    f"SiglipConfig.{name}",
                    repr(getattr(self, name)),
                    f"one of {[*allowed]}",
                    "Correct the config.",
                )

    @property
    def num_tokens(self) -> int:
        """Features of an image."""
        return (self.image_size // self.patch_size) ** 2

    def count_parameters(self) -> int:
        """All parameters of the tower."""
        d, m = self.hidden_size, self.intermediate_size
        embeddings = (3 * self.patch_size**2 + 1 + self.num_tokens) * d
        layer = 4 * (d + 1) * d + (d + 1) * m + (m + 1) * d + 4 * d
        last_norm = 2 * d if self.features == "post_norm" else 0
        return embeddings + self.num_hidden_layers * layer + last_norm

    def flops_per_image(self) -> int:
        """Of the matrix products of a forward pass, 2 per multiply-add."""
        n, d = self.num_tokens, self.hidden_size
        return 2 * n * 3 * self.patch_size**2 * d + self.encoder.flops(d, n, n * n)

    @property
    def encoder(self) -> EncoderConfig:
        """Its blocks."""
        return EncoderConfig(
            self.num_hidden_layers,
            self.intermediate_size,
            self.num_attention_heads,
            self.layer_norm_eps,
            self.hidden_act,
        )

    def last_flops_per_image(self) -> int:
        """The share of it that recomputation need not do again: patches, last product of layers."""
        n, d = self.num_tokens, self.hidden_size
        return 2 * n * 3 * self.patch_size**2 * d + self.encoder.last_flops(d, n)


SIZES = {
    "siglip_large_patch16_384": SiglipConfig(),
    # Of LLaVA-OneVision: the last block of the release is left out, as is what follows it.
    "siglip_so400m_patch14_384": SiglipConfig(
        patch_size=14, hidden_size=1152, intermediate_size=4304, num_hidden_layers=26,
        hidden_act="gelu_tanh", features="pre_norm", leaves_pixels=True,
    ),
    "siglip_test": SiglipConfig(
        image_size=32, patch_size=8, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4,
    ),
}  # fmt: skip


class Siglip(nn.Module):
    """The tower.

    Attributes:
      config: sizes.
      remat: of the layers: "none", "dots" or "full" (`nn.stack`).
    """

    config: SiglipConfig
    remat: str = "none"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, pixels: Float[Array, "B height width 3"]) -> Float[Array, "B N D"]:
        """Features of every patch in raster order, from pixels in -1..1."""
        cfg, kinds = self.config, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        embed = PatchEmbedding(
            cfg.num_tokens, cfg.patch_size, cfg.hidden_size, name="embeddings", **kinds
        )
        seen = cfg.image_size // cfg.patch_size * cfg.patch_size
        x = embed(pixels[:, :seen, :seen])
        encoder = Encoder(cfg.encoder, self.remat, name="encoder", **kinds)
        x = encoder(x, full_intervals(x.shape[0], cfg.num_tokens, cfg.num_tokens))
        if cfg.features == "post_norm":
            x = LayerNorm(cfg.layer_norm_eps, name="post_layernorm", **kinds)(x)
        return x

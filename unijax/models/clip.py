"""CLIP's towers (arXiv 2103.00020): pixels to a class token and patches, and ids to one vector.

The vision tower is that of transformers' `CLIPVisionModel`, for OpenAI's ViT-L/14 with QuickGELU:
EVA-01's teacher and LLaVA's tower. Its `last_hidden_state` is without the last norm, which
transformers gives to the class token alone; here it is on every token, or on none
(`features="pre_norm"`, which with one layer less is what LLaVA reads).

The text towers are OpenAI's and open_clip's, as EVA-CLIP has them. `causal=False, pooling="mean"`
make the small bidirectional one that trains a SigLIP tower here. Projections into the common space
belong to the recipe that joins two towers.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from unijax.core import axes
from unijax.core.errors import UserError
from unijax.nn.encoder import ACTIVATIONS, Encoder, EncoderConfig
from unijax.nn.initializers import SCHEMES
from unijax.nn.layers import Embed, LayerNorm
from unijax.nn.patch_embedding import PatchEmbedding
from unijax.ops.attention import full_intervals

FEATURES = ("post_norm", "pre_norm")
POOLING = ("eot", "mean")


def _check(config: Any, allowed: dict[str, Sequence[str]]) -> None:
    """Raises a UserError for heads that do not divide the width, or an unknown name."""
    name, heads = type(config).__name__, config.num_attention_heads
    if config.hidden_size % heads:
        raise UserError(
            f"{name}.num_attention_heads",
            f"{heads}",
            f"a divisor of hidden_size={config.hidden_size}",
            "Change one of them.",
        )
    for field, names in allowed.items():
        if getattr(config, field) not in names:
            found = repr(getattr(config, field))
            raise UserError(f"{name}.{field}", found, f"one of {[*names]}", "Correct the config.")


def _encoder(config: Any) -> EncoderConfig:
    return EncoderConfig(
        num_layers=config.num_hidden_layers,
        hidden=config.intermediate_size,
        num_heads=config.num_attention_heads,
        epsilon=config.layer_norm_eps,
        hidden_act=config.hidden_act,
        init=config.init,
    )


@dataclasses.dataclass(frozen=True)
class ClipVisionConfig:
    """Shape of a vision tower. Field names are those of transformers' `CLIPVisionConfig`.

    Attributes:
      hidden_act: a key of `nn.encoder.ACTIVATIONS`: OpenAI's is "quick_gelu", open_clip's "gelu".
      features: "post_norm": after the last norm; "pre_norm": without it.
      init: a key of `nn.initializers.SCHEMES`.
      kind: "clip", which tells it from other towers in a config.

    Raises:
      UserError: sizes that do not divide, or an unknown name.
    """

    image_size: int = 224
    patch_size: int = 14
    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    layer_norm_eps: float = 1e-5
    hidden_act: str = "quick_gelu"
    features: str = "post_norm"
    init: str = "clip"
    kind: str = "clip"

    def __post_init__(self):
        if self.image_size % self.patch_size:
            raise UserError(
                "ClipVisionConfig.image_size",
                f"{self.image_size}",
                f"a multiple of patch_size={self.patch_size}",
                "Change one of them.",
            )
        names = {"hidden_act": [*ACTIVATIONS], "features": FEATURES, "init": [*SCHEMES]}
        _check(self, names | {"kind": ["clip"]})

    @property
    def grid(self) -> int:
        """Patches of a side."""
        return self.image_size // self.patch_size

    @property
    def num_tokens(self) -> int:
        """Patches of a picture."""
        return self.grid**2

    @property
    def encoder(self) -> EncoderConfig:
        """Its blocks."""
        return _encoder(self)

    def flops_per_image(self) -> int:
        """Of the matrix products of a forward pass, 2 per multiply-add."""
        n, d = self.num_tokens, self.hidden_size
        return 2 * n * 3 * self.patch_size**2 * d + self.encoder.flops(d, n + 1, (n + 1) ** 2)

    def last_flops_per_image(self) -> int:
        """The share of it that recomputation need not do again: patches, last product of layers."""
        n, d = self.num_tokens, self.hidden_size
        return 2 * n * 3 * self.patch_size**2 * d + self.encoder.last_flops(d, n + 1)


@dataclasses.dataclass(frozen=True)
class ClipTextConfig:
    """Shape of a text tower.

    Attributes:
      max_length: tokens of the longest text.
      hidden_act: a key of `nn.encoder.ACTIVATIONS`.
      causal: a token sees those before it alone.
      pooling: "eot": the last token of a text, which CLIP's tokenizer makes the end of text;
        "mean": of all its tokens.
      init: a key of `nn.initializers.SCHEMES`.

    Raises:
      UserError: heads that do not divide the width, or an unknown name.
    """

    vocab_size: int = 49408
    max_length: int = 77
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    layer_norm_eps: float = 1e-5
    hidden_act: str = "gelu"
    causal: bool = True
    pooling: str = "eot"
    init: str = "clip"

    def __post_init__(self):
        _check(self, {"hidden_act": [*ACTIVATIONS], "pooling": POOLING, "init": [*SCHEMES]})

    @property
    def encoder(self) -> EncoderConfig:
        """Its blocks."""
        return _encoder(self)

    def pairs_per_text(self, tokens: int) -> int:
        """Of a query and a key, in a text of so many tokens."""
        return tokens * (tokens + 1) // 2 if self.causal else tokens**2

    def flops_per_token(self) -> int:
        """Of the layers' products with weights, forward, 2 per multiply-add."""
        return self.encoder.flops(self.hidden_size, 1, 0)

    def flops_per_pair(self) -> int:
        """Of attention, forward, for each pair of a query and a key."""
        return self.encoder.flops(self.hidden_size, 0, 1)

    def last_flops_per_token(self) -> int:
        """The share of products with weights that recomputation need not do again."""
        return self.encoder.last_flops(self.hidden_size, 1)


VISION_SIZES = {
    "clip_vit_large_patch14_224": ClipVisionConfig(),
    "clip_vit_large_patch14_336": ClipVisionConfig(image_size=336),
    "clip_vit_test": ClipVisionConfig(32, 8, 32, 64, 2, 2),
}
# By width and layers: EVA02-CLIP-B/16; g/14 and both L/14; g/14+ and E/14; E/14+.
TEXT_SIZES = {
    "clip_text_512x12": ClipTextConfig(
        hidden_size=512, intermediate_size=2048, num_attention_heads=8
    ),
    "clip_text_768x12": ClipTextConfig(),
    "clip_text_1024x24": ClipTextConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16
    ),
    "clip_text_1280x32": ClipTextConfig(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20
    ),
    "clip_text_test": ClipTextConfig(48, 12, 32, 64, 2, 2),
}


class ClipVision(nn.Module):
    """The vision tower.

    Attributes:
      config: sizes.
      remat: of the layers: "none", "dots" or "full" (`nn.stack`).
    """

    config: ClipVisionConfig
    remat: str = "none"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, pixels: Float[Array, "B height width 3"]) -> Float[Array, "B tokens D"]:
        """The class token, then the patches in raster order."""
        cfg, kinds = self.config, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        scheme = SCHEMES[cfg.init]
        embed = PatchEmbedding(
            cfg.num_tokens,
            cfg.patch_size,
            cfg.hidden_size,
            use_bias=False,
            class_token=True,
            patch_init=scheme.patch,
            token_init=scheme.token,
            name="embeddings",
            **kinds,
        )
        # The name is that of transformers, and so are its letters.
        x = LayerNorm(cfg.layer_norm_eps, name="pre_layrnorm", **kinds)(embed(pixels))
        b, n, _ = x.shape
        encoder = Encoder(cfg.encoder, self.remat, name="encoder", **kinds)
        x = encoder(x, full_intervals(b, n, n))
        if cfg.features == "post_norm":
            x = LayerNorm(cfg.layer_norm_eps, name="post_layernorm", **kinds)(x)
        return x


class ClipText(nn.Module):
    """The text tower.

    Attributes:
      config: sizes.
      remat: of the layers: "none", "dots" or "full" (`nn.stack`).
    """

    config: ClipTextConfig
    remat: str = "none"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array, "B S"], length: Int[Array, " B"]) -> Float[Array, "B D"]:
        """One vector per text, after the last norm; what stands behind `length` ids has no
        influence."""
        cfg, kinds = self.config, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        scheme = SCHEMES[cfg.init]
        tokens, d = ids.shape[1], cfg.hidden_size
        names = (axes.VOCAB, axes.VISION_EMBED)
        table = Embed(cfg.vocab_size, d, names, name="token_embedding", **kinds)
        names = (axes.POSITIONS, axes.VISION_EMBED)
        positions = Embed(
            cfg.max_length, d, names, scheme.text_position, name="position_embedding", **kinds
        )
        here = jnp.arange(tokens)
        valid = here < length[:, None]
        end = jnp.broadcast_to(length[:, None], ids.shape).astype(jnp.int32)
        start = jnp.where(valid, 0, end)  # padding sees nothing
        if cfg.causal:
            end = jnp.minimum(end, here + 1)
        encoder = Encoder(cfg.encoder, self.remat, name="encoder", **kinds)
        x = encoder(table(ids) + positions(here), (start, end))
        x = LayerNorm(cfg.layer_norm_eps, name="final_layer_norm", **kinds)(x)
        if cfg.pooling == "eot":
            last = jnp.maximum(length - 1, 0)[:, None, None]
            return jnp.take_along_axis(x, last, axis=1)[:, 0]
        total = jnp.sum(jnp.where(valid[..., None], x, 0), axis=1, dtype=jnp.float32)
        return (total / jnp.maximum(length, 1)[:, None]).astype(self.dtype)

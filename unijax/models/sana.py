"""Sana: a diffusion transformer with linear attention (arXiv 2410.10629).

The network of diffusers' `SanaTransformer2DModel`, after which submodules are called, with patches
of one latent. Self-attention is linear in the positions, a depthwise convolution in the
feed-forward layer stands in for positions, and the context is attended to as usual.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from unijax.core import axes
from unijax.core.errors import UserError
from unijax.core.mesh import ROWS, WHOLE, lay
from unijax.nn.glu_mb_conv import GLUMBConv
from unijax.nn.layers import Dense, RMSNorm
from unijax.nn.spatial_transformer import Attention
from unijax.nn.stack import stack
from unijax.nn.timestep import TimestepEmbedding
from unijax.ops.norm import standardise

NORM_EPSILON = 1e-6
CAPTION_NORM_EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class SanaConfig:
    """Shape of a transformer. Field names are those of diffusers' `SanaTransformer2DModel`.

    Raises:
      UserError: widths that do not fit.
    """

    sample_size: int = 16  # latents of a side: 512 pixels in DC-AE's
    in_channels: int = 32
    out_channels: int = 32
    num_layers: int = 20
    num_attention_heads: int = 70
    attention_head_dim: int = 32
    num_cross_attention_heads: int = 20
    cross_attention_head_dim: int = 112
    caption_channels: int = 2304  # width of the context
    mlp_ratio: float = 2.5
    kind: str = "sana"  # among generators

    def __post_init__(self):
        crossed = self.num_cross_attention_heads * self.cross_attention_head_dim
        if crossed != self.width:
            raise UserError(
                "SanaConfig.num_cross_attention_heads, cross_attention_head_dim",
                f"a product of {crossed}",
                f"the width, {self.width} (num_attention_heads x attention_head_dim)",
                "Change one of them.",
            )

    @property
    def width(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @property
    def hidden(self) -> int:
        """Of the feed-forward layers."""
        return int(self.mlp_ratio * self.width)

    def flops_per_image(self, context_tokens: int) -> int:
        """Of products and depthwise convolutions of a forward pass; 2 per multiply-add."""
        n, d, h, m = self.sample_size**2, self.width, self.hidden, context_tokens
        linear = 2 * n * 4 * d * d + 4 * n * d * self.attention_head_dim + 2 * n * d
        crossed = 2 * n * 2 * d * d + 2 * m * 2 * d * d + 4 * n * m * d
        feed_forward = 2 * n * 3 * d * h + 2 * n * 9 * 2 * h
        ends = 2 * n * d * (self.in_channels + self.out_channels)
        context = 2 * m * (self.caption_channels * d + d * d)
        time = 2 * (TimestepEmbedding.frequencies * d + 7 * d * d)
        return self.num_layers * (linear + crossed + feed_forward) + ends + context + time


SIZES = {
    "sana_1600m": SanaConfig(),
    "sana_600m": SanaConfig(
        num_layers=28, num_attention_heads=36, num_cross_attention_heads=16,
        cross_attention_head_dim=72,
    ),
    "sana_test": SanaConfig(
        sample_size=4, in_channels=5, out_channels=5, num_layers=3, num_attention_heads=4,
        attention_head_dim=8, num_cross_attention_heads=2, cross_attention_head_dim=16,
        caption_channels=24,
    ),
}  # fmt: skip


class Sana(nn.Module):
    """The transformer.

    Attributes:
      config: sizes.
      remat: of the layers: "none", "dots" or "full" (`nn.stack`).
    """

    config: SanaConfig
    remat: str = "none"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B height width c_in"],
        timestep: Float[Array, " B"],
        context: Float[Array, "B M K"],
    ) -> Float[Array, "B height width c_out"]:
        """What is predicted, float32.

        Args:
          x: noisy latents, scaled; any height and width.
          timestep: of each picture; it may lie between two.
          context: all of it is seen.

        Raises:
          UserError: a context of another width.
        """
        cfg, kinds = self.config, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if context.shape[-1] != cfg.caption_channels:
            raise UserError(
                "Sana: context",
                f"a width of {context.shape[-1]}",
                f"caption_channels, {cfg.caption_channels}",
                "Take a transformer made for these features, or project them to its width.",
            )
        b, height, width, _ = x.shape
        x = lay(x, ROWS, WHOLE, WHOLE, WHOLE).reshape(b, height * width, -1)
        x = Dense(cfg.width, (axes.PATCH, axes.VISION_EMBED), name="patch_embed", **kinds)(x)
        time, each = TimeEmbedding(cfg.width, name="time_embed", **kinds)(timestep)
        context = CaptionProjection(cfg.width, name="caption_projection", **kinds)(context)
        context = RMSNorm(CAPTION_NORM_EPSILON, name="caption_norm", **kinds)(context)
        blocks = stack(
            Block,
            cfg.num_layers,
            self.remat,
            "transformer_blocks",
            config=cfg,
            height=height,
            width=width,
            **kinds,
        )
        x = blocks(x, None, (each, context))[0]
        table = _modulation(self, 2, cfg.width)
        shift, scale = jnp.split(table + time.astype(jnp.float32)[:, None], 2, axis=1)
        x = (standardise(x, NORM_EPSILON) * (1 + scale) + shift).astype(self.dtype)
        names = (axes.VISION_EMBED, axes.PATCH)
        x = Dense(cfg.out_channels, names, name="proj_out", **kinds)(x)
        return x.reshape(b, height, width, -1).astype(jnp.float32)


class TimeEmbedding(nn.Module):
    """The timestep as a vector, and as the six that modulate every block."""

    features: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, timestep: Float[Array, " B"]
    ) -> tuple[Float[Array, "B d"], Float[Array, "B 6 d"]]:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        names = (axes.PATCH, axes.VISION_MLP, axes.VISION_EMBED)
        time = TimestepEmbedding(self.features, self.features, names, name="embedder", **kinds)(
            timestep
        )
        names = (axes.VISION_EMBED, axes.VISION_MLP)
        six = Dense(6 * self.features, names, name="linear", **kinds)(jax.nn.silu(time))
        return time, six.reshape(-1, 6, self.features)


class CaptionProjection(nn.Module):
    """The context brought to the width of the transformer: linear, GELU (tanh), linear."""

    features: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B M K"]) -> Float[Array, "B M d"]:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        into, out = (axes.EMBED, axes.VISION_MLP), (axes.VISION_MLP, axes.VISION_EMBED)
        x = Dense(self.features, into, name="linear_1", **kinds)(x)
        x = jax.nn.gelu(x, approximate=True)
        return Dense(self.features, out, name="linear_2", **kinds)(x)


class Block(nn.Module):
    """Linear self-attention, attention to the context, gated convolutional feed-forward layer.

    The first and the last are modulated by the timestep; the second is not, nor normalised before.
    """

    config: SanaConfig
    height: int
    width: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N d"],
        per_layer: None,
        shared: tuple[Float[Array, "B 6 d"], Float[Array, "B M d"]],
    ) -> tuple[Float[Array, "B N d"], None]:
        cfg, kinds = self.config, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        time, context = shared
        table = _modulation(self, 6, cfg.width) + time.astype(jnp.float32)
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = jnp.split(table, 6, axis=1)

        h = (standardise(x, NORM_EPSILON) * (1 + scale) + shift).astype(self.dtype)
        h = Attention(cfg.num_attention_heads, linear=True, name="attn1", **kinds)(h, h)
        x = x + gate.astype(self.dtype) * h
        crossed = Attention(cfg.num_cross_attention_heads, qkv_bias=True, name="attn2", **kinds)
        x = x + crossed(x, context)
        h = (standardise(x, NORM_EPSILON) * (1 + scale_mlp) + shift_mlp).astype(self.dtype)
        h = h.reshape(x.shape[0], self.height, self.width, -1)
        h = GLUMBConv(cfg.hidden, name="ff", **kinds)(h).reshape(x.shape)
        return x + gate_mlp.astype(self.dtype) * h, per_layer


def _modulation(module: nn.Module, rows: int, width: int) -> Float[Array, "rows d"]:
    """What is added to the timestep's vectors, float32."""
    init = nn.with_logical_partitioning(
        nn.initializers.normal(width**-0.5), (axes.NORM, axes.VISION_EMBED)
    )
    table = module.param("scale_shift_table", init, (rows, width), module.param_dtype)
    return table.astype(jnp.float32)

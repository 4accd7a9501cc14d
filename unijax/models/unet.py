"""U-Net of latent diffusion: a noisy latent, its timestep and a context to what is predicted.

Sources: arXiv 2112.10752 (Stable Diffusion 1.5's `UNet2DConditionModel` in diffusers, after which
submodules are called) and arXiv 2105.05233. The same blocks, in two halves around a transformer,
are Transfusion's down and up layers (arXiv 2408.11039, section 3): `PatchUNet`.

Submodules against diffusers: read '_0' after a plural as '.0', and

    resnets_I/nin_shortcut         resnets.I.conv_shortcut
    attn1/to_out_0                 attn1.to_out.0
    ff/net_0_proj, ff/net_2        ff.net.0.proj, ff.net.2
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
from unijax.core.record import added
from unijax.nn.conv_blocks import NORM_GROUPS, SAME_3X3, Downsample, ResBlock, Upsample
from unijax.nn.layers import Conv, Dense, GroupNorm
from unijax.nn.spatial_transformer import (
    Context,
    SpatialTransformer,
    spatial_transformer_flops,
)
from unijax.nn.stack import rematerialised
from unijax.nn.timestep import TimestepEmbedding

NORM_EPSILON = 1e-5  # of residual blocks and the last norm
TIME = 4  # width of the timestep's vector, in widths of the finest level

Skips = tuple[Float[Array, "B _h _w _c"], ...]


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """Shape of a U-Net. Field names are mostly those of diffusers' `UNet2DConditionModel`.

    Raises:
      UserError: sizes that do not divide.
    """

    sample_size: int = 64  # latents of a side
    in_channels: int = 4
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)  # per level, finest first
    layers_per_block: int = 2  # on the way down; one more on the way up
    attention_levels: tuple[bool, ...] = (True, True, True, False)  # which have transformer blocks
    mid_block: bool = True  # with a transformer block
    cross_attention_dim: int = 768  # width of the context; 0: transformer blocks without one
    num_attention_heads: int = 8  # of all levels; diffusers calls it attention_head_dim
    kind: str = added("unet")

    def __post_init__(self):
        for level, channels in enumerate(self.block_out_channels):
            if channels % NORM_GROUPS:
                raise UserError(
                    "UNetConfig.block_out_channels",
                    f"a level of {channels} channels",
                    f"a multiple of {NORM_GROUPS} (the groups of group norm)",
                    "Change the channels.",
                )
            last = level == len(self.block_out_channels) - 1
            attends = self.attention_levels[level : level + 1] == (True,)
            if (attends or (last and self.mid_block)) and channels % self.num_attention_heads:
                raise UserError(
                    "UNetConfig.num_attention_heads",
                    f"{self.num_attention_heads}",
                    f"a divisor of the {channels} channels of level {level}",
                    "Change one of them.",
                )
        if len(self.attention_levels) != len(self.block_out_channels):
            raise UserError(
                "UNetConfig.attention_levels",
                f"{len(self.attention_levels)} values",
                f"{len(self.block_out_channels)}, one for each of block_out_channels",
                "Correct one of them.",
            )
        self.check_size(self.sample_size, "UNetConfig.sample_size")

    def check_size(self, side: int, where: str) -> None:
        """Raises UserError for a side that the levels do not halve evenly."""
        if side % self.downsampling:
            raise UserError(
                where,
                f"{side} latents of a side",
                f"a multiple of {self.downsampling} (2 to the power of the levels less one)",
                "Change the size of the pictures.",
            )

    @property
    def downsampling(self) -> int:
        """Latents of a side for one of the coarsest level."""
        return 2 ** (len(self.block_out_channels) - 1)

    @property
    def grid(self) -> int:
        """Positions of a side of the coarsest level."""
        return self.sample_size // self.downsampling

    def flops_per_image(self, context_tokens: int = 0) -> int:
        """Of convolutions and products of a forward pass; 2 per multiply-add."""
        side, c, last = self.sample_size, self.block_out_channels[0], len(self.attention_levels) - 1
        total, skips = _conv(3, self.in_channels, c, side) + _time(c), [c]
        time = TIME * self.block_out_channels[0]

        def block(c_in: int, c_out: int, attends: bool) -> int:
            flops = _res(c_in, c_out, side, time)
            if attends:
                of_context = self.cross_attention_dim, context_tokens
                flops += spatial_transformer_flops(c_out, side**2, *of_context)
            return flops

        levels = list(enumerate(zip(self.block_out_channels, self.attention_levels)))
        for level, (channels, attends) in levels:
            for _ in range(self.layers_per_block):
                total += block(c, channels, attends)
                c = channels
                skips.append(c)
            if level != last:
                side //= 2
                total += _conv(3, c, c, side)
                skips.append(c)
        if self.mid_block:
            total += block(c, c, True) + block(c, c, False)
        for level, (channels, attends) in reversed(levels):
            for _ in range(self.layers_per_block + 1):
                total += block(c + skips.pop(), channels, attends)
                c = channels
            if level != 0:
                side *= 2
                total += _conv(3, c, c, side)
        return total + _conv(3, c, self.out_channels, side)


SIZES = {
    "sd15_unet": UNetConfig(),
    "emu_unet": UNetConfig(cross_attention_dim=5120),
    "unet_test": UNetConfig(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1,
        attention_levels=(True, False), cross_attention_dim=24, num_attention_heads=4,
    ),
}  # fmt: skip


def _transfusion(block_out_channels: tuple[int, ...], heads: int) -> UNetConfig:
    levels = len(block_out_channels)
    return UNetConfig(
        sample_size=32,
        in_channels=8,
        out_channels=8,
        block_out_channels=block_out_channels,
        layers_per_block=1,
        attention_levels=(False,) * (levels - 1) + (True,),
        mid_block=False,
        cross_attention_dim=0,
        num_attention_heads=heads,
    )


# Transfusion's layers by the side of a patch. The paper says about 0.27B parameters, and no widths:
# these have 0.27B to 0.29B with the tokens of its transformers.
TRANSFUSION = {
    2: _transfusion((640, 1280), 20),
    4: _transfusion((320, 640, 1280), 20),
    8: _transfusion((256, 512, 1024, 1024), 16),
}


class UNet(nn.Module):
    """The network. `init` through `__call__`, which reaches every parameter.

    Attributes:
      config: sizes.
      remat: of every level's blocks: "none", "dots" or "full" (`nn.stack`).
    """

    config: UNetConfig
    remat: str = "none"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        cfg, kinds = self.config, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        channels, heads = cfg.block_out_channels, cfg.num_attention_heads
        last = len(channels) - 1
        down, up, mid = (rematerialised(b, self.remat) for b in (DownBlock, UpBlock, MidBlock))
        self.conv_in = Conv(channels[0], 3, padding=SAME_3X3, **kinds)
        self.time_embedding = TimestepEmbedding(
            TIME * channels[0],
            TIME * channels[0],
            (axes.VISION_EMBED, axes.VISION_MLP, axes.VISION_EMBED),
            frequencies=channels[0],
            **kinds,
        )
        levels = list(zip(channels, (heads if a else 0 for a in cfg.attention_levels)))
        self.down_blocks = [
            down(c, cfg.layers_per_block, h, downsample=level != last, **kinds)
            for level, (c, h) in enumerate(levels)
        ]
        if cfg.mid_block:
            self.mid_block = mid(heads, **kinds)
        self.up_blocks = [
            up(c, cfg.layers_per_block + 1, h, upsample=level != last, **kinds)
            for level, (c, h) in enumerate(reversed(levels))
        ]
        self.conv_norm_out = GroupNorm(NORM_GROUPS, NORM_EPSILON, **kinds)
        self.conv_out = Conv(cfg.out_channels, 3, padding=SAME_3X3, **kinds)

    def down(
        self,
        x: Float[Array, "B height width c_in"],
        time: Float[Array, "B t"],
        context: Context = None,
    ) -> tuple[Float[Array, "B h w c"], Skips]:
        """The coarsest level, and what the way up takes from every layer of the way down.

        Args:
          time: the `time_embedding` of the timesteps.

        Raises:
          UserError: a context of another width, or a size that the levels do not halve evenly.
        """
        self._check(x, context)
        x = lay(x.astype(self.dtype), ROWS, WHOLE, WHOLE, WHOLE)
        x = self.conv_in(x)
        skips = [x]
        for block in self.down_blocks:
            x, of_block = block(x, time, context)
            skips += of_block
        return x, tuple(skips)

    def up(
        self,
        x: Float[Array, "B h w c"],
        time: Float[Array, "B t"],
        skips: Skips,
        context: Context = None,
    ) -> Float[Array, "B height width c_out"]:
        """What is predicted, float32."""
        left = list(skips)
        for block in self.up_blocks:
            of_block = tuple(left.pop() for _ in range(self.config.layers_per_block + 1))
            x = block(x, of_block, time, context)
        assert not left, len(left)
        x = jax.nn.silu(self.conv_norm_out(x))
        return self.conv_out(x).astype(jnp.float32)

    def __call__(
        self,
        x: Float[Array, "B height width c_in"],
        timestep: Float[Array, " B"],
        context: Context = None,
    ) -> Float[Array, "B height width c_out"]:
        """What is predicted, float32.

        Args:
          x: noisy latents, scaled.
          timestep: of each picture; it may lie between two.
          context: [B, M, cross_attention_dim], all of it seen.

        Raises:
          UserError: a context of another width, or a size that the levels do not halve evenly.
        """
        time = self.time_embedding(timestep)
        x, skips = self.down(x, time, context)
        if self.config.mid_block:
            x = self.mid_block(x, time, context)
        return self.up(x, time, skips, context)

    def _check(self, x: Array, context: Array | None) -> None:
        for side in x.shape[1:3]:
            self.config.check_size(side, "U-Net")
        width = 0 if context is None else context.shape[-1]
        if width != self.config.cross_attention_dim:
            raise UserError(
                "U-Net: context",
                f"a width of {width}",
                f"cross_attention_dim, {self.config.cross_attention_dim}",
                "Take a U-Net made for these features, or project them to its width.",
            )


class PatchUNet(nn.Module):
    """A U-Net whose middle is elsewhere: tokens for a transformer on the way down, and back.

    `init` through `__call__`, which reaches every parameter.

    Attributes:
      config: sizes, without `mid_block` and context. A token is a position of the coarsest level, a
        patch of `config.downsampling` latents of a side.
      width: of a token.
    """

    config: UNetConfig
    width: int
    remat: str = "none"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        cfg, kinds = self.config, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        assert not cfg.mid_block, cfg
        self.unet = UNet(cfg, self.remat, **kinds)
        self.proj_in = Dense(self.width, (axes.VISION_EMBED, axes.EMBED), **kinds)
        coarsest = cfg.block_out_channels[-1]
        self.proj_out = Dense(coarsest, (axes.EMBED, axes.VISION_EMBED), **kinds)

    def down(
        self, x: Float[Array, "B height width c_in"], timestep: Float[Array, " B"]
    ) -> tuple[Float[Array, "B N D"], Skips]:
        """Tokens in raster order, and what `up` needs beside them."""
        h, skips = self.unet.down(x, self.unet.time_embedding(timestep))
        return self.proj_in(h.reshape(h.shape[0], -1, h.shape[-1])), skips

    def up(
        self, tokens: Float[Array, "B N D"], timestep: Float[Array, " B"], skips: Skips
    ) -> Float[Array, "B height width c_out"]:
        """What is predicted, float32."""
        h = self.proj_out(tokens).reshape(skips[-1].shape)
        return self.unet.up(h, self.unet.time_embedding(timestep), skips)

    def __call__(
        self, x: Float[Array, "B height width c_in"], timestep: Float[Array, " B"]
    ) -> Float[Array, "B height width c_out"]:
        """Both ways, with nothing between."""
        tokens, skips = self.down(x, timestep)
        return self.up(tokens, timestep, skips)


class DownBlock(nn.Module):
    """Residual blocks of a level, a transformer block after each if there are heads, then half."""

    features: int
    num_layers: int
    num_heads: int
    downsample: bool
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B height width c_in"], time: Float[Array, "B t"], context: Context
    ) -> tuple[Float[Array, "B h w c"], Skips]:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        skips = []
        for i in range(self.num_layers):
            x = ResBlock(self.features, NORM_EPSILON, name=f"resnets_{i}", **kinds)(x, time)
            if self.num_heads:
                x = SpatialTransformer(self.num_heads, name=f"attentions_{i}", **kinds)(x, context)
            skips.append(x)
        if self.downsample:
            x = Downsample(padding=SAME_3X3, name="downsamplers_0", **kinds)(x)
            skips.append(x)
        return x, tuple(skips)


class MidBlock(nn.Module):
    """Residual block, transformer block, residual block."""

    num_heads: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w c"], time: Float[Array, "B t"], context: Context
    ) -> Float[Array, "B h w c"]:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = ResBlock(x.shape[-1], NORM_EPSILON, name="resnets_0", **kinds)(x, time)
        x = SpatialTransformer(self.num_heads, name="attentions_0", **kinds)(x, context)
        return ResBlock(x.shape[-1], NORM_EPSILON, name="resnets_1", **kinds)(x, time)


class UpBlock(nn.Module):
    """As `DownBlock`, each residual block fed beside with a layer of the way down; then double."""

    features: int
    num_layers: int
    num_heads: int
    upsample: bool
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B h w c_in"],
        skips: Skips,
        time: Float[Array, "B t"],
        context: Context,
    ) -> Float[Array, "B height width c"]:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for i in range(self.num_layers):
            x = jnp.concatenate([x, skips[i]], axis=-1)
            x = ResBlock(self.features, NORM_EPSILON, name=f"resnets_{i}", **kinds)(x, time)
            if self.num_heads:
                x = SpatialTransformer(self.num_heads, name=f"attentions_{i}", **kinds)(x, context)
        if self.upsample:
            x = Upsample(name="upsamplers_0", **kinds)(x)
        return x


def _conv(kernel: int, c_in: int, c_out: int, side: int) -> int:
    """`side` is of the output."""
    return 2 * kernel**2 * c_in * c_out * side**2


def _time(c: int) -> int:
    return 2 * (c * TIME * c + (TIME * c) ** 2)


def _res(c_in: int, c_out: int, side: int, time: int) -> int:
    shortcut = _conv(1, c_in, c_out, side) if c_in != c_out else 0
    return _conv(3, c_in, c_out, side) + _conv(3, c_out, c_out, side) + shortcut + 2 * time * c_out

"""Encoder and decoder of the convolutional image autoencoders of the taming-transformers family.

VQ and KL autoencoders differ in what lies between the two, and in attention: the former have it in
all blocks of the coarsest level, the latter in the middle alone.
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from unijax.core.errors import UserError
from unijax.core.mesh import IMAGES, WHOLE, lay
from unijax.nn.conv_blocks import (
    NORM_EPSILON,
    NORM_GROUPS,
    SAME_3X3,
    Downsample,
    MidBlock,
    ResBlock,
    SpatialAttention,
    Upsample,
)
from unijax.nn.layers import Conv, GroupNorm


class ConvCost(NamedTuple):
    """Parameters, and FLOPs of convolutions and products for an image; 2 per multiply-add."""

    parameters: int = 0
    flops: int = 0


@dataclasses.dataclass(frozen=True)
class Levels:
    """Shape of an encoder and its decoder.

    Attributes:
      image_size: pixels of a side.
      stem: channels of the encoder's first convolution.
      channels: of every level, finest first.
      blocks: of a level of the encoder; the decoder has one more.
      attention: in the blocks of the coarsest level.
    """

    image_size: int
    stem: int
    channels: tuple[int, ...]
    blocks: int
    attention: bool

    @property
    def downsampling(self) -> int:
        """Pixels of a latent's side."""
        return 2 ** (len(self.channels) - 1)

    @property
    def grid(self) -> int:
        """Latents of a side."""
        return self.image_size // self.downsampling

    def check(self, channels_field: str, size_field: str) -> None:
        """Raises UserError, naming the fields, for what cannot be built."""
        for channels in (self.stem, *self.channels):
            if channels % NORM_GROUPS:
                raise UserError(
                    channels_field,
                    f"a level of {channels} channels",
                    f"a multiple of {NORM_GROUPS} (the groups of group norm)",
                    "Change the channels.",
                )
        if self.image_size % self.downsampling:
            raise UserError(
                size_field,
                f"{self.image_size}",
                f"a multiple of {self.downsampling} (2 to the power of the levels less one)",
                "Change it, or the number of levels.",
            )

    def encoder_cost(self, out_channels: int) -> ConvCost:
        side, c = self.image_size, self.stem
        costs = [conv_cost(3, 3, c, side)]
        for channels in self.channels:
            coarsest = side == self.grid
            for _ in range(self.blocks):
                costs.append(_res(c, channels, side))
                c = channels
                costs += [_attention(c, side)] * (coarsest and self.attention)
            if not coarsest:
                side //= 2
                costs.append(conv_cost(3, c, c, side))
        ends = [ConvCost(2 * c), conv_cost(3, c, out_channels, side)]
        return add_costs(*costs, _middle(c, side), *ends)

    def decoder_cost(self, in_channels: int) -> ConvCost:
        side, c = self.grid, self.channels[-1]
        costs = [conv_cost(3, in_channels, c, side), _middle(c, side)]
        for channels in reversed(self.channels):
            for _ in range(self.blocks + 1):
                costs.append(_res(c, channels, side))
                c = channels
                costs += [_attention(c, side)] * (side == self.grid and self.attention)
            if side != self.image_size:
                side *= 2
                costs.append(conv_cost(3, c, c, side))
        return add_costs(*costs, ConvCost(2 * c), conv_cost(3, c, 3, side))


class Encoder(nn.Module):
    """Pixels to a grid of `out_channels`."""

    levels: Levels
    out_channels: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B height width 3"]) -> Float[Array, "B h w c"]:
        cfg, kinds = self.levels, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = lay(x, IMAGES, WHOLE, WHOLE, WHOLE)
        x = Conv(cfg.stem, 3, padding=SAME_3X3, name="conv_in", **kinds)(x)
        for level, channels in enumerate(cfg.channels):
            coarsest = level == len(cfg.channels) - 1
            x = Level(
                channels,
                cfg.blocks,
                attention=coarsest and cfg.attention,
                resample="" if coarsest else "downsample",
                name=f"down_{level}",
                **kinds,
            )(x)
        x = MidBlock(name="mid", **kinds)(x)
        x = jax.nn.silu(GroupNorm(NORM_GROUPS, NORM_EPSILON, name="norm_out", **kinds)(x))
        return Conv(self.out_channels, 3, padding=SAME_3X3, name="conv_out", **kinds)(x)


class Decoder(nn.Module):
    """A grid of latents to pixels."""

    levels: Levels
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, z: Float[Array, "B h w c"]) -> Float[Array, "B height width 3"]:
        cfg, kinds = self.levels, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        coarse_first = cfg.channels[::-1]
        x = Conv(coarse_first[0], 3, padding=SAME_3X3, name="conv_in", **kinds)(z)
        x = MidBlock(name="mid", **kinds)(x)
        for level, channels in enumerate(coarse_first):
            finest = level == len(coarse_first) - 1
            x = Level(
                channels,
                cfg.blocks + 1,
                attention=level == 0 and cfg.attention,
                resample="" if finest else "upsample",
                name=f"up_{level}",
                **kinds,
            )(x)
        x = jax.nn.silu(GroupNorm(NORM_GROUPS, NORM_EPSILON, name="norm_out", **kinds)(x))
        return Conv(3, 3, padding=SAME_3X3, name="conv_out", **kinds)(x)


class Level(nn.Module):
    """ResBlocks of one resolution, each followed by attention if asked, then a change of scale."""

    features: int
    num_blocks: int
    attention: bool
    resample: str  # "downsample", "upsample" or ""
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B height width c_in"]) -> Float[Array, "B h w c"]:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for i in range(self.num_blocks):
            x = ResBlock(self.features, name=f"block_{i}", **kinds)(x)
            if self.attention:
                x = SpatialAttention(name=f"attn_{i}", **kinds)(x)
        if self.resample == "downsample":
            x = Downsample(name="downsample", **kinds)(x)
        if self.resample == "upsample":
            x = Upsample(name="upsample", **kinds)(x)
        return x


def add_costs(*costs: ConvCost) -> ConvCost:
    return ConvCost(*(sum(column) for column in zip(*costs)))


def conv_cost(kernel: int, c_in: int, c_out: int, side: int) -> ConvCost:
    """`side` is of the output."""
    products = kernel**2 * c_in * c_out
    return ConvCost(products + c_out, 2 * products * side**2)


def _res(c_in: int, c_out: int, side: int) -> ConvCost:
    shortcut = conv_cost(1, c_in, c_out, side) if c_in != c_out else ConvCost()
    norms = ConvCost(2 * c_in + 2 * c_out)
    convolutions = conv_cost(3, c_in, c_out, side), conv_cost(3, c_out, c_out, side)
    return add_costs(norms, *convolutions, shortcut)


def _attention(c: int, side: int) -> ConvCost:
    return add_costs(ConvCost(2 * c, 4 * side**4 * c), *[conv_cost(1, c, c, side)] * 4)


def _middle(c: int, side: int) -> ConvCost:
    return add_costs(_res(c, c, side), _attention(c, side), _res(c, c, side))

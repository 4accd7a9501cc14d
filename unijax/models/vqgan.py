"""VQ image tokenizer: pixels to a raster of codes and back (LlamaGen's VQ-16, Janus's `vqmodel`).

Sources: arXiv 2406.06525 section 3.1 and its `tokenizer_image/vq_model.py`; deepseek-ai/Janus
`janus/models/vq_model.py`, whose weights and `JanusVQVAE` in transformers fit this tree.

Parameter paths against Hugging Face's `model.vqmodel.*`: read '/' as '.', and

    encoder/down_L/block_I, attn_I    encoder.down.L.block.I, .attn.I (L = 0 is the finest level)
    decoder/up_L/block_I, attn_I      decoder.up.L.block.I, .attn.I (L = 0 is the coarsest level)
    .../mid/block_1, attn_1, block_2  the same words, with underscores
    kernel [kh, kw, in, out]          weight [out, in, kh, kw]
    scale                             weight
    quantize/embedding                quantize.embedding.weight
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from unijax.core import axes
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
from unijax.ops import quantize


@dataclasses.dataclass(frozen=True)
class VQConfig:
    """Shape of a tokenizer. Field names are those of transformers' `JanusVQVAEConfig`.

    Raises:
      UserError: channels that group norm cannot divide, or an image that does not halve evenly.
    """

    image_size: int = 384  # pixels of a side
    base_channels: int = 128
    channel_multiplier: tuple[int, ...] = (1, 1, 2, 2, 4)  # per level, finest first
    num_res_blocks: int = 2  # per level of the encoder; the decoder has one more
    latent_channels: int = 256
    embed_dim: int = 8  # width of a code
    num_embeddings: int = 16384  # codes

    def __post_init__(self):
        for channels in self.level_channels:
            if channels % NORM_GROUPS:
                raise UserError(
                    "VQConfig.base_channels, channel_multiplier",
                    f"a level of {channels} channels",
                    f"a multiple of {NORM_GROUPS} (the groups of group norm)",
                    "Change base_channels.",
                )
        if self.image_size % self.downsampling:
            raise UserError(
                "VQConfig.image_size",
                f"{self.image_size}",
                f"a multiple of {self.downsampling} (2 to the power of the levels less one)",
                "Change image_size or the number of channel multipliers.",
            )

    @property
    def level_channels(self) -> tuple[int, ...]:
        return tuple(self.base_channels * m for m in self.channel_multiplier)

    @property
    def downsampling(self) -> int:
        """Pixels of a code's side."""
        return 2 ** (len(self.channel_multiplier) - 1)

    @property
    def grid(self) -> int:
        """Codes of a side of the raster."""
        return self.image_size // self.downsampling

    @property
    def num_tokens(self) -> int:
        """Codes of an image."""
        return self.grid**2

    def count_parameters(self) -> int:
        """All parameters, the codebook's too."""
        table = self.num_embeddings * self.embed_dim
        return _encoder_cost(self).parameters + _decoder_cost(self).parameters + table

    def encode_flops_per_image(self) -> int:
        """Of convolutions and products, codebook search included; 2 per multiply-add."""
        return _encoder_cost(self).flops + self.search_flops_per_image()

    def search_flops_per_image(self) -> int:
        """Of the product that finds the nearest codes."""
        return 2 * self.num_tokens * self.num_embeddings * self.embed_dim

    def decode_flops_per_image(self) -> int:
        """Of convolutions and products; 2 per multiply-add."""
        return _decoder_cost(self).flops


SIZES = {
    "vq_16": VQConfig(),
    "vq_test": VQConfig(
        image_size=16, base_channels=32, channel_multiplier=(1, 2), num_res_blocks=1,
        latent_channels=16, num_embeddings=64,
    ),
}  # fmt: skip


@flax.struct.dataclass
class VQOutput:
    """One training pass.

    Attributes:
      pixels: reconstruction, about -1..1.
      codes: int32 ids in raster order.
      codebook_loss: mean over the latents of an image of |code - sg(latent)|^2 / embed_dim, both of
        length 1: pulls the codebook.
      commitment_loss: the same with the gradient to the latent.
    """

    pixels: Any  # float32 [B, height, width, 3]
    codes: Any  # int32 [B, N]
    codebook_loss: Any  # float32 [B]
    commitment_loss: Any  # float32 [B]


class Encoder(nn.Module):
    """Pixels to latents of `latent_channels`, one per code."""

    config: VQConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B height width 3"]) -> Float[Array, "B h w c"]:
        cfg, kinds = self.config, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = lay(x, IMAGES, WHOLE, WHOLE, WHOLE)
        x = Conv(cfg.base_channels, 3, padding=SAME_3X3, name="conv_in", **kinds)(x)
        for level, channels in enumerate(cfg.level_channels):
            coarsest = level == len(cfg.level_channels) - 1
            x = Level(
                channels,
                cfg.num_res_blocks,
                attention=coarsest,
                resample="" if coarsest else "downsample",
                name=f"down_{level}",
                **kinds,
            )(x)
        x = MidBlock(name="mid", **kinds)(x)
        x = jax.nn.silu(GroupNorm(NORM_GROUPS, NORM_EPSILON, name="norm_out", **kinds)(x))
        return Conv(cfg.latent_channels, 3, padding=SAME_3X3, name="conv_out", **kinds)(x)


class Decoder(nn.Module):
    """Latents of `latent_channels` to pixels."""

    config: VQConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, z: Float[Array, "B h w c"]) -> Float[Array, "B height width 3"]:
        cfg, kinds = self.config, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        coarse_first = cfg.level_channels[::-1]
        x = Conv(coarse_first[0], 3, padding=SAME_3X3, name="conv_in", **kinds)(z)
        x = MidBlock(name="mid", **kinds)(x)
        for level, channels in enumerate(coarse_first):
            finest = level == len(coarse_first) - 1
            x = Level(
                channels,
                cfg.num_res_blocks + 1,
                attention=level == 0,
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


class Codebook(nn.Module):
    """The table of codes; only the directions of its rows matter."""

    num_embeddings: int
    embed_dim: int
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        init = nn.with_logical_partitioning(
            nn.initializers.normal(self.embed_dim**-0.5), (axes.CODEBOOK, axes.CODE_DIM)
        )
        shape = (self.num_embeddings, self.embed_dim)
        self.embedding = self.param("embedding", init, shape, self.param_dtype)

    def nearest(self, latents: Float[Array, "*batch d"]) -> Int[Array, "*batch"]:
        return quantize.nearest_code(latents, self.embedding)

    def look_up(self, codes: Int[Array, "*batch"]) -> Float[Array, "*batch d"]:
        return quantize.look_up(codes, self.embedding)


class VQGAN(nn.Module):
    """The tokenizer. `init` through `__call__`, which reaches every parameter.

    Pixels are floats in -1..1, `[B, image_size, image_size, 3]`.
    """

    config: VQConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        cfg, kinds = self.config, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.encoder = Encoder(cfg, **kinds)
        self.quant_conv = Conv(cfg.embed_dim, 1, **kinds)
        self.quantize = Codebook(cfg.num_embeddings, cfg.embed_dim, self.param_dtype)
        self.post_quant_conv = Conv(cfg.latent_channels, 1, **kinds)
        self.decoder = Decoder(cfg, **kinds)

    def encode_latents(self, pixels: Float[Array, "B height width 3"]) -> Float[Array, "B N d"]:
        """Latents before normalisation and quantisation, in raster order, in `dtype`."""
        z = self.quant_conv(self.encoder(pixels.astype(self.dtype)))
        return z.reshape(z.shape[0], -1, self.config.embed_dim)

    def encode(self, pixels: Float[Array, "B height width 3"]) -> Int[Array, "B N"]:
        """Code ids in raster order."""
        return self.quantize.nearest(self.encode_latents(pixels))

    def decode(self, codes: Int[Array, "B N"]) -> Float[Array, "B height width 3"]:
        """Pixels, float32, about -1..1 (not clipped)."""
        return self._decode_latents(self.quantize.look_up(codes))

    def __call__(self, pixels: Float[Array, "B height width 3"]) -> VQOutput:
        """Encode, quantise with straight-through gradients, decode."""
        z = quantize.unit_norm(self.encode_latents(pixels))
        codes = self.quantize.nearest(z)
        q = self.quantize.look_up(codes)
        return VQOutput(
            pixels=self._decode_latents(quantize.straight_through(z, q)),
            codes=codes,
            codebook_loss=jnp.mean((q - jax.lax.stop_gradient(z)) ** 2, axis=(1, 2)),
            commitment_loss=jnp.mean((jax.lax.stop_gradient(q) - z) ** 2, axis=(1, 2)),
        )

    def _decode_latents(self, q: Float[Array, "B N d"]) -> Float[Array, "B height width 3"]:
        grid = self.config.grid
        z = self.post_quant_conv(q.reshape(q.shape[0], grid, grid, -1).astype(self.dtype))
        return self.decoder(z).astype(jnp.float32)


class _Cost(NamedTuple):
    parameters: int = 0
    flops: int = 0


def _add(*costs: _Cost) -> _Cost:
    return _Cost(*(sum(column) for column in zip(*costs)))


def _conv(kernel: int, c_in: int, c_out: int, side: int) -> _Cost:
    """`side` is of the output."""
    products = kernel**2 * c_in * c_out
    return _Cost(products + c_out, 2 * products * side**2)


def _res(c_in: int, c_out: int, side: int) -> _Cost:
    shortcut = _conv(1, c_in, c_out, side) if c_in != c_out else _Cost()
    norms = _Cost(2 * c_in + 2 * c_out)
    return _add(norms, _conv(3, c_in, c_out, side), _conv(3, c_out, c_out, side), shortcut)


def _attention(c: int, side: int) -> _Cost:
    return _add(_Cost(2 * c, 4 * side**4 * c), *[_conv(1, c, c, side)] * 4)


def _encoder_cost(cfg: VQConfig) -> _Cost:
    """Up to the latents, `quant_conv` included."""
    side, c = cfg.image_size, cfg.base_channels
    costs = [_conv(3, 3, c, side)]
    for channels in cfg.level_channels:
        coarsest = side == cfg.grid
        for _ in range(cfg.num_res_blocks):
            costs.append(_res(c, channels, side))
            c = channels
            costs += [_attention(c, side)] * coarsest
        if not coarsest:
            side //= 2
            costs.append(_conv(3, c, c, side))
    ends = [_Cost(2 * c), _conv(3, c, cfg.latent_channels, side)]
    ends.append(_conv(1, cfg.latent_channels, cfg.embed_dim, side))
    return _add(*costs, _res(c, c, side), _attention(c, side), _res(c, c, side), *ends)


def _decoder_cost(cfg: VQConfig) -> _Cost:
    """From the codes on, `post_quant_conv` included."""
    side, c = cfg.grid, cfg.level_channels[-1]
    costs = [_conv(1, cfg.embed_dim, cfg.latent_channels, side)]
    costs += [_conv(3, cfg.latent_channels, c, side)]
    costs += [_res(c, c, side), _attention(c, side), _res(c, c, side)]
    for channels in reversed(cfg.level_channels):
        for _ in range(cfg.num_res_blocks + 1):
            costs.append(_res(c, channels, side))
            c = channels
            costs += [_attention(c, side)] * (side == cfg.grid)
        if side != cfg.image_size:
            side *= 2
            costs.append(_conv(3, c, c, side))
    return _add(*costs, _Cost(2 * c), _conv(3, c, 3, side))

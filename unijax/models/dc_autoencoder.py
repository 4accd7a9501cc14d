"""Deep-compression autoencoder: pixels to 32 times smaller latents and back (arXiv 2410.10733).

The network of diffusers' `AutoencoderDC` in the form that Sana uses: convolutions down, nearest
neighbours and convolutions up, residual blocks in the fine levels and EfficientViT blocks (arXiv
2205.14756) in the coarse ones. Latents are numbers, not distributions.

Submodules against diffusers: `down_blocks_L_I` is `down_blocks.L.I`, and likewise upwards, where
the first of a level, but for the coarsest, is the change of scale.
"""

import dataclasses
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from unijax.core import axes
from unijax.core.errors import UserError
from unijax.core.mesh import IMAGES, WHOLE, lay
from unijax.nn.conv_blocks import SAME_3X3
from unijax.nn.glu_mb_conv import GLUMBConv
from unijax.nn.layers import Conv, Dense, DepthwiseConv, RMSNorm
from unijax.ops.linear_attention import linear_attention

NORM_EPSILON = 1e-5
EXPANSION = 4  # of the feed-forward layers
SCALE = 5  # kernel of the convolution that mixes queries, keys and values of neighbours


@dataclasses.dataclass(frozen=True)
class DCAutoencoderConfig:
    """Shape of an autoencoder.

    Raises:
      UserError: sizes that do not divide, or lists of other lengths.
    """

    image_size: int = 512  # pixels of a side
    latent_channels: int = 32
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512, 1024, 1024)  # finest level first
    encoder_layers_per_block: tuple[int, ...] = (2, 2, 2, 3, 3, 3)
    decoder_layers_per_block: tuple[int, ...] = (3, 3, 3, 3, 3, 3)
    transformer_levels: int = 3  # the last so many levels have EfficientViT blocks
    attention_head_dim: int = 32
    scaling_factor: float = 0.41407  # of latents for a diffusion model
    kind: str = "dc"  # among autoencoders

    def __post_init__(self):
        channels = self.block_out_channels
        for name in ("encoder_layers_per_block", "decoder_layers_per_block"):
            layers = getattr(self, name)
            if len(layers) != len(channels) or min(layers) < 1:
                raise UserError(
                    f"DCAutoencoderConfig.{name}",
                    f"{list(layers)}",
                    f"{len(channels)} positive numbers, one for each of block_out_channels",
                    "Correct it.",
                )
        for fine, coarse in itertools.pairwise(channels):
            if 4 * fine % coarse:
                raise UserError(
                    "DCAutoencoderConfig.block_out_channels",
                    f"{fine} channels before {coarse}",
                    f"a divisor of {4 * fine} (four pixels become one)",
                    "Change one of them.",
                )
        if channels[-1] % self.latent_channels:
            raise UserError(
                "DCAutoencoderConfig.latent_channels",
                f"{self.latent_channels}",
                f"a divisor of the {channels[-1]} channels of the last level",
                "Change one of them.",
            )
        for c in channels[len(channels) - self.transformer_levels :]:
            if c % self.attention_head_dim:
                raise UserError(
                    "DCAutoencoderConfig.attention_head_dim",
                    f"{self.attention_head_dim}",
                    f"a divisor of the {c} channels of a level",
                    "Change one of them.",
                )
        if self.image_size % self.downsampling:
            raise UserError(
                "DCAutoencoderConfig.image_size",
                f"{self.image_size}",
                f"a multiple of {self.downsampling} (2 to the power of the levels less one)",
                "Change it, or the number of levels.",
            )

    @property
    def downsampling(self) -> int:
        """Pixels of a latent's side."""
        return 2 ** (len(self.block_out_channels) - 1)

    @property
    def grid(self) -> int:
        """Latents of a side."""
        return self.image_size // self.downsampling

    def head_dim(self, level: int) -> int:
        """Of a level's attention; 0 where it has residual blocks."""
        first = len(self.block_out_channels) - self.transformer_levels
        return self.attention_head_dim if level >= first else 0

    def encode_flops_per_image(self) -> int:
        """Of convolutions and products; 2 per multiply-add."""
        channels, side = self.block_out_channels, self.image_size
        total, last = 2 * side**2 * 9 * 3 * channels[0], len(channels) - 1
        for level, (c, layers) in enumerate(zip(channels, self.encoder_layers_per_block)):
            total += layers * _block_flops(c, side, self.head_dim(level))
            if level < last:
                side //= 2
                total += 2 * side**2 * 9 * c * channels[level + 1]
        return total + 2 * side**2 * 9 * channels[-1] * self.latent_channels

    def scaled(self, latents: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Latents as diffusion models see them, of variance about 1."""
        return latents * self.scaling_factor

    def unscaled(self, latents: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The inverse of `scaled`."""
        return latents / self.scaling_factor


def _block_flops(c: int, side: int, head_dim: int) -> int:
    """Of a `Block`."""
    n, hidden = side**2, EXPANSION * c
    if not head_dim:
        return 2 * n * 2 * 9 * c * c
    products = 4 * c * c + 2 * c * c  # of queries, keys and values, and what joins both kinds
    around = 3 * c * (SCALE**2 + head_dim)
    linear = 2 * 2 * c * head_dim + 2 * c
    feed_forward = 2 * c * hidden + 9 * 2 * hidden + hidden * c
    return 2 * n * (products + around + feed_forward) + 2 * n * linear


SIZES = {
    "dc_ae_f32c32": DCAutoencoderConfig(),
    "dc_ae_test": DCAutoencoderConfig(
        image_size=32, latent_channels=8, block_out_channels=(16, 16, 32),
        encoder_layers_per_block=(1, 2, 1), decoder_layers_per_block=(2, 1, 1),
        transformer_levels=1, attention_head_dim=8, scaling_factor=1.0,
    ),
}  # fmt: skip


class AutoencoderDC(nn.Module):
    """The autoencoder. `init` through `__call__`, which reaches every parameter.

    Pixels are floats in -1..1, `[B, height, width, 3]`, with sides that the levels halve evenly.
    """

    config: DCAutoencoderConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.encoder = Encoder(self.config, **kinds)
        self.decoder = Decoder(self.config, **kinds)

    def encode(self, pixels: Float[Array, "B height width 3"]) -> Float[Array, "B h w c"]:
        """Latents, float32, not scaled."""
        return self.encoder(pixels.astype(self.dtype)).astype(jnp.float32)

    def decode(self, latents: Float[Array, "B h w c"]) -> Float[Array, "B height width 3"]:
        """Pixels, float32, about -1..1 (not clipped), of latents that are not scaled."""
        return self.decoder(latents.astype(self.dtype)).astype(jnp.float32)

    def __call__(self, pixels: Float[Array, "B height width 3"]) -> Float[Array, "B h w 3"]:
        """Encode, decode."""
        return self.decode(self.encode(pixels))


class Encoder(nn.Module):
    config: DCAutoencoderConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B height width 3"]) -> Float[Array, "B h w c"]:
        cfg, kinds = self.config, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        channels = cfg.block_out_channels
        x = lay(x, IMAGES, WHOLE, WHOLE, WHOLE)
        x = Conv(channels[0], 3, padding=SAME_3X3, name="conv_in", **kinds)(x)
        for level, layers in enumerate(cfg.encoder_layers_per_block):
            names = [f"down_blocks_{level}_{i}" for i in range(layers + 1)]
            for name in names[:-1]:
                x = Block(cfg.head_dim(level), name=name, **kinds)(x)
            if level < len(channels) - 1:
                x = Down(channels[level + 1], name=names[-1], **kinds)(x)
        mean = _mean_of_channels(x, cfg.latent_channels)
        return mean + Conv(cfg.latent_channels, 3, padding=SAME_3X3, name="conv_out", **kinds)(x)


class Decoder(nn.Module):
    config: DCAutoencoderConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, z: Float[Array, "B h w c"]) -> Float[Array, "B height width 3"]:
        cfg, kinds = self.config, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        channels = cfg.block_out_channels
        repeated = jnp.repeat(z, channels[-1] // z.shape[-1], axis=-1)
        x = repeated + Conv(channels[-1], 3, padding=SAME_3X3, name="conv_in", **kinds)(z)
        for level in reversed(range(len(channels))):
            first = 0
            if level < len(channels) - 1:
                x = Up(channels[level], name=f"up_blocks_{level}_0", **kinds)(x)
                first = 1
            for i in range(cfg.decoder_layers_per_block[level]):
                name = f"up_blocks_{level}_{first + i}"
                x = Block(cfg.head_dim(level), name=name, **kinds)(x)
        x = RMSNorm(NORM_EPSILON, use_bias=True, name="norm_out", **kinds)(x)
        return Conv(3, 3, padding=SAME_3X3, name="conv_out", **kinds)(jax.nn.relu(x))


class Down(nn.Module):
    """3x3 convolution of stride 2, plus the mean of what each output stands for."""

    features: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B height width c_in"]) -> Float[Array, "B h w c"]:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = Conv(self.features, 3, stride=2, padding=SAME_3X3, name="conv", **kinds)
        return conv(x) + _mean_of_channels(_to_channels(x), self.features)


class Up(nn.Module):
    """Every pixel becomes 2x2 equal ones, then a 3x3 convolution; plus repeated channels."""

    features: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w c_in"]) -> Float[Array, "B height width c"]:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        larger = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        conv = Conv(self.features, 3, padding=SAME_3X3, name="conv", **kinds)
        repeated = jnp.repeat(x, 4 * self.features // x.shape[-1], axis=-1)
        return conv(larger) + _to_space(repeated)


class Block(nn.Module):
    """A residual block, or with heads an EfficientViT block; channels stay.

    Parameters of the two kinds lie where diffusers has them: a residual block's directly here.
    """

    head_dim: int  # 0: a residual block
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B height width c"]) -> Float[Array, "B height width c"]:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        c = x.shape[-1]
        if not self.head_dim:
            h = jax.nn.silu(Conv(c, 3, padding=SAME_3X3, name="conv1", **kinds)(x))
            h = Conv(c, 3, padding=SAME_3X3, use_bias=False, name="conv2", **kinds)(h)
            return x + RMSNorm(NORM_EPSILON, use_bias=True, name="norm", **kinds)(h)
        x = x + MultiScaleAttention(self.head_dim, name="attn", **kinds)(x)
        return x + GLUMBConv(EXPANSION * c, norm=True, name="conv_out", **kinds)(x)


class MultiScaleAttention(nn.Module):
    """Linear attention of heads on pixels, and of as many on their neighbourhoods; then a norm."""

    head_dim: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B height width c"]) -> Float[Array, "B height width c"]:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        b, height, width, c = x.shape
        names = (axes.VISION_EMBED, axes.VISION_HEADS)
        qkv = [
            Dense(c, names, use_bias=False, name=name, **kinds)(x)
            for name in ("to_q", "to_k", "to_v")
        ]
        qkv = jnp.concatenate(qkv, axis=-1)
        around = Neighbourhood(self.head_dim, name="to_qkv_multiscale_0", **kinds)(qkv)
        # A head takes the next 3 x head_dim channels, whatever they were projected as.
        heads = jnp.concatenate([qkv, around], axis=-1)
        heads = heads.reshape(b, height * width, -1, 3, self.head_dim)
        y = linear_attention(*(heads[:, :, :, i] for i in range(3)))
        names = (axes.VISION_HEADS, axes.VISION_EMBED)
        y = Dense(c, names, use_bias=False, name="to_out", **kinds)(y.reshape(b, height, width, -1))
        return RMSNorm(NORM_EPSILON, use_bias=True, name="norm_out", **kinds)(y)


class Neighbourhood(nn.Module):
    """Depthwise convolution, then a matrix for each group of `group` channels."""

    group: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B height width c"]) -> Float[Array, "B height width c"]:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = DepthwiseConv(SCALE, use_bias=False, name="proj_in", **kinds)(x)
        init = nn.with_logical_partitioning(
            nn.initializers.normal(self.group**-0.5), (axes.NORM, axes.CONV_IN, axes.CONV_OUT)
        )
        groups = x.shape[-1] // self.group
        shape = (groups, self.group, self.group)
        kernel = self.param("proj_out", init, shape, self.param_dtype).astype(self.dtype)
        y = jnp.einsum("bhwgi,gio->bhwgo", x.reshape(*x.shape[:3], groups, self.group), kernel)
        return y.reshape(x.shape)


def _to_channels(x: Float[Array, "B height width c"]) -> Float[Array, "B h w c4"]:
    """2x2 pixels into channels, as (channel, row, column)."""
    b, height, width, c = x.shape
    x = x.reshape(b, height // 2, 2, width // 2, 2, c).transpose(0, 1, 3, 5, 2, 4)
    return x.reshape(b, height // 2, width // 2, 4 * c)


def _to_space(x: Float[Array, "B h w c4"]) -> Float[Array, "B height width c"]:
    """The inverse of `_to_channels`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, c // 4, 2, 2).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(b, 2 * h, 2 * w, c // 4)


def _mean_of_channels(x: Float[Array, "B h w c_in"], channels: int) -> Float[Array, "B h w c"]:
    """Of the neighbouring channels that each of so many stands for."""
    return jnp.mean(x.reshape(*x.shape[:3], channels, -1), axis=-1)

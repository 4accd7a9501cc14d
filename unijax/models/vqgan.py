"""VQ image tokenizer: pixels to a raster of codes and back (LlamaGen's VQ-16, Janus's `vqmodel`).

By two options also Chameleon's (arXiv 2405.09818, section 2.1), that of taming-transformers: codes
are compared by distance, not by angle, and attention is in the middle alone.

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
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from unijax.core import axes
from unijax.core.record import added
from unijax.nn.conv_autoencoder import ConvCost, Decoder, Encoder, Levels, add_costs, conv_cost
from unijax.nn.layers import Conv
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
    coarse_attention: bool = added(True)  # in the blocks of the coarsest level, not in `mid` alone
    unit_codes: bool = added(True)  # codes and latents are scaled to length 1

    def __post_init__(self):
        self.levels.check("VQConfig.base_channels, channel_multiplier", "VQConfig.image_size")

    @property
    def level_channels(self) -> tuple[int, ...]:
        return tuple(self.base_channels * m for m in self.channel_multiplier)

    @property
    def levels(self) -> Levels:
        """Shape of the encoder and the decoder."""
        return Levels(
            image_size=self.image_size,
            stem=self.base_channels,
            channels=self.level_channels,
            blocks=self.num_res_blocks,
            attention=self.coarse_attention,
        )

    @property
    def downsampling(self) -> int:
        """Pixels of a code's side."""
        return self.levels.downsampling

    @property
    def grid(self) -> int:
        """Codes of a side of the raster."""
        return self.levels.grid

    @property
    def num_tokens(self) -> int:
        """Codes of an image."""
        return self.grid**2

    def count_parameters(self) -> int:
        """All parameters, the codebook's too."""
        table = self.num_embeddings * self.embed_dim
        return self._encoder_cost.parameters + self._decoder_cost.parameters + table

    def encode_flops_per_image(self) -> int:
        """Of convolutions and products, codebook search included; 2 per multiply-add."""
        return self._encoder_cost.flops + self.search_flops_per_image()

    def search_flops_per_image(self) -> int:
        """Of the product that finds the nearest codes."""
        return 2 * self.num_tokens * self.num_embeddings * self.embed_dim

    def decode_flops_per_image(self) -> int:
        """Of convolutions and products; 2 per multiply-add."""
        return self._decoder_cost.flops

    @property
    def _encoder_cost(self) -> ConvCost:
        into = conv_cost(1, self.latent_channels, self.embed_dim, self.grid)
        return add_costs(self.levels.encoder_cost(self.latent_channels), into)

    @property
    def _decoder_cost(self) -> ConvCost:
        out = conv_cost(1, self.embed_dim, self.latent_channels, self.grid)
        return add_costs(out, self.levels.decoder_cost(self.latent_channels))


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
      vectors: of the codes, with straight-through gradients.
      codes: int32 ids in raster order.
      codebook_loss: mean over the latents of an image of |code - sg(latent)|^2 / embed_dim, of unit
        codes both of length 1: pulls the codebook.
      commitment_loss: the same with the gradient to the latent.
    """

    pixels: Any  # float32 [B, height, width, 3]
    vectors: Any  # float32 [B, N, embed_dim]
    codes: Any  # int32 [B, N]
    codebook_loss: Any  # float32 [B]
    commitment_loss: Any  # float32 [B]


class Codebook(nn.Module):
    """The table of codes. Of unit codes only the directions of its rows matter."""

    num_embeddings: int
    embed_dim: int
    unit_codes: bool = True
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        init = nn.with_logical_partitioning(
            nn.initializers.normal(self.embed_dim**-0.5), (axes.CODEBOOK, axes.CODE_DIM)
        )
        shape = (self.num_embeddings, self.embed_dim)
        self.embedding = self.param("embedding", init, shape, self.param_dtype)

    def nearest(self, latents: Float[Array, "*batch d"]) -> Int[Array, "*batch"]:
        nearest = quantize.nearest_code if self.unit_codes else quantize.nearest_row
        return nearest(latents, self.embedding)

    def look_up(self, codes: Int[Array, "*batch"]) -> Float[Array, "*batch d"]:
        if self.unit_codes:
            return quantize.look_up(codes, self.embedding)
        return jnp.take(self.embedding, codes, axis=0).astype(jnp.float32)


class VQGAN(nn.Module):
    """The tokenizer. `init` through `__call__`, which reaches every parameter.

    Pixels are floats in -1..1, `[B, image_size, image_size, 3]`.
    """

    config: VQConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        cfg, kinds = self.config, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.encoder = Encoder(cfg.levels, cfg.latent_channels, **kinds)
        self.quant_conv = Conv(cfg.embed_dim, 1, **kinds)
        self.quantize = Codebook(
            cfg.num_embeddings, cfg.embed_dim, cfg.unit_codes, self.param_dtype
        )
        self.post_quant_conv = Conv(cfg.latent_channels, 1, **kinds)
        self.decoder = Decoder(cfg.levels, **kinds)

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
        z = self.encode_latents(pixels).astype(jnp.float32)
        if self.config.unit_codes:
            z = quantize.unit_norm(z)
        codes = self.quantize.nearest(z)
        q = self.quantize.look_up(codes)
        vectors = quantize.straight_through(z, q)
        return VQOutput(
            pixels=self._decode_latents(vectors),
            vectors=vectors,
            codes=codes,
            codebook_loss=jnp.mean((q - jax.lax.stop_gradient(z)) ** 2, axis=(1, 2)),
            commitment_loss=jnp.mean((jax.lax.stop_gradient(q) - z) ** 2, axis=(1, 2)),
        )

    def _decode_latents(self, q: Float[Array, "B N d"]) -> Float[Array, "B height width 3"]:
        grid = self.config.grid
        z = self.post_quant_conv(q.reshape(q.shape[0], grid, grid, -1).astype(self.dtype))
        return self.decoder(z).astype(jnp.float32)

"""What a VQ tokenizer's codes mean: a causal transformer over their vectors.

The semantic tokenizer of Janus's ablations (arXiv 2410.13848, appendix A): behind the quantised
vectors of a VQ tokenizer a ViT of 12 layers, 12 heads and width 768, with a causal mask, which
learns to give SigLIP's features. As it is causal, codes that are drawn one by one can enter a
decoder as what it makes of them.

Our choices, where the paper is silent: a linear layer takes the vectors in, positions are learned,
blocks are SigLIP's, a last norm; a decoder sees what lies behind that norm, and the linear head to
the teacher's width is the training's alone.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from unijax.core import axes
from unijax.core.errors import UserError
from unijax.models.vqgan import VQGAN, VQConfig
from unijax.nn.encoder import Encoder, EncoderConfig
from unijax.nn.layers import Dense, Embed, LayerNorm


@dataclasses.dataclass(frozen=True)
class SemanticConfig:
    """Shape of the transformer.

    Raises:
      UserError: heads that do not divide the width.
    """

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    layer_norm_eps: float = 1e-6

    def __post_init__(self):
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                "SemanticConfig.num_attention_heads", f"{self.num_attention_heads}",
                f"a divisor of hidden_size={self.hidden_size}", "Change one of them.",
            )  # fmt: skip

    @property
    def encoder(self) -> EncoderConfig:
        return EncoderConfig(
            self.num_hidden_layers, self.intermediate_size, self.num_attention_heads,
            self.layer_norm_eps,
        )  # fmt: skip

    def flops(self, tokens: int, into: int) -> int:
        """Of the matrix products of a picture's forward pass, 2 per multiply-add.

        Args:
          tokens: codes of a picture.
          into: width of a code's vector.
        """
        pairs = tokens * (tokens + 1) // 2
        first = 2 * tokens * into * self.hidden_size
        return first + self.encoder.flops(self.hidden_size, tokens, pairs)

    def last_flops(self, tokens: int) -> int:
        """The share of it that recomputation need not do again."""
        return self.encoder.last_flops(self.hidden_size, tokens)


class SemanticDecoder(nn.Module):
    """The transformer.

    Attributes:
      config: sizes.
      tokens: codes of a picture.
      remat: of the layers: "none", "dots" or "full" (`nn.stack`).
    """

    config: SemanticConfig
    tokens: int
    remat: str = "none"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, vectors: Float[Array, "B N d"]) -> Float[Array, "B N D"]:
        """A feature of every code, which knows the codes up to it."""
        cfg, kinds = self.config, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        names = (axes.CODE_DIM, axes.VISION_EMBED)
        x = Dense(cfg.hidden_size, names, name="code_embedding", **kinds)(vectors)
        names = (axes.POSITIONS, axes.VISION_EMBED)
        positions = Embed(self.tokens, cfg.hidden_size, names, name="position_embedding", **kinds)
        b, n, _ = x.shape
        x = x + positions(jnp.arange(n))
        encoder = Encoder(cfg.encoder, self.remat, name="encoder", **kinds)
        seen = jnp.broadcast_to(jnp.arange(1, n + 1, dtype=jnp.int32), (b, n))
        x = encoder(x, (jnp.zeros_like(seen), seen))
        return LayerNorm(cfg.layer_norm_eps, name="post_layernorm", **kinds)(x)


@dataclasses.dataclass(frozen=True)
class CodesConfig:
    """A tower whose features are those of a VQ tokenizer's codes.

    Attributes:
      vq: the tokenizer.
      semantic: what comes behind its codes; without it features are their vectors.
    """

    vq: VQConfig
    semantic: SemanticConfig | None = None
    kind: str = "codes"

    @property
    def image_size(self) -> int:
        return self.vq.image_size

    @property
    def patch_size(self) -> int:
        return self.vq.downsampling

    @property
    def num_tokens(self) -> int:
        return self.vq.num_tokens

    @property
    def hidden_size(self) -> int:
        return self.semantic.hidden_size if self.semantic else self.vq.embed_dim

    @property
    def num_hidden_layers(self) -> int:
        return self.semantic.num_hidden_layers if self.semantic else 0

    @property
    def num_attention_heads(self) -> int:
        return self.semantic.num_attention_heads if self.semantic else 1

    def semantic_flops_per_image(self) -> int:
        """Of what comes behind the codes."""
        return self.semantic.flops(self.num_tokens, self.vq.embed_dim) if self.semantic else 0

    def flops_per_image(self) -> int:
        """Of convolutions and products, forward, 2 per multiply-add."""
        return self.vq.encode_flops_per_image() + self.semantic_flops_per_image()

    def last_flops_per_image(self) -> int:
        """The share of it that recomputation need not do again: all convolutions."""
        kept = self.semantic.last_flops(self.num_tokens) if self.semantic else 0
        return self.vq.encode_flops_per_image() + kept


class CodesTower(nn.Module):
    """The tower. Parameters: `vqmodel`, and `semantic` where there is one."""

    config: CodesConfig
    remat: str = "none"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        cfg, kinds = self.config, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.vqmodel = VQGAN(cfg.vq, **kinds)
        if cfg.semantic is not None:
            self.semantic = SemanticDecoder(cfg.semantic, cfg.num_tokens, self.remat, **kinds)

    def read(self, codes: Int[Array, "B N"]) -> Float[Array, "B N D"]:
        """Features of codes in raster order, each of the codes up to it alone."""
        vectors = self.vqmodel.quantize.look_up(codes).astype(self.dtype)
        return vectors if self.config.semantic is None else self.semantic(vectors)

    def __call__(self, pixels: Float[Array, "B height width 3"]) -> Float[Array, "B N D"]:
        """Features of pictures in -1..1."""
        if self.is_initializing():
            self.vqmodel(pixels)  # which reaches every parameter
        return self.read(self.vqmodel.encode(pixels))

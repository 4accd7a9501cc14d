"""A small text tower for contrastive training: ids to one vector (arXiv 2303.15343, section 4).

Bidirectional, as SigLIP's. Our choice: the mean over the tokens, where SigLIP takes the last one.
It helps to train a vision tower and is not shipped.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from unijax.core import axes
from unijax.core.errors import UserError
from unijax.nn.encoder import Encoder
from unijax.nn.layers import Embed, LayerNorm


@dataclasses.dataclass(frozen=True)
class TextEncoderConfig:
    """Shape of a text tower.

    Raises:
      UserError: heads that do not divide the width.
    """

    vocab_size: int
    max_length: int  # tokens of the longest text
    hidden_size: int = 128
    intermediate_size: int = 512
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    layer_norm_eps: float = 1e-6

    def __post_init__(self):
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                "TextEncoderConfig.num_attention_heads",
                f"{self.num_attention_heads}",
                f"a divisor of hidden_size={self.hidden_size}",
                "Change one of them.",
            )

    def flops_per_token(self) -> int:
        """Of the layers' products with weights, forward, 2 per multiply-add."""
        d = self.hidden_size
        return self.num_hidden_layers * 2 * (4 * d * d + 2 * d * self.intermediate_size)

    def flops_per_pair(self) -> int:
        """Of attention, forward, for each pair of a query and a key."""
        return self.num_hidden_layers * 4 * self.hidden_size


class TextEncoder(nn.Module):
    """The tower."""

    config: TextEncoderConfig
    remat: str = "none"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array, "B S"], length: Int[Array, "B"]) -> Float[Array, "B D"]:
        """One vector per text; what stands behind `length` ids has no influence."""
        cfg, kinds = self.config, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        tokens, d = ids.shape[1], cfg.hidden_size
        table = Embed(
            cfg.vocab_size, d, (axes.VOCAB, axes.VISION_EMBED), name="token_embedding", **kinds
        )
        positions = Embed(
            cfg.max_length,
            d,
            (axes.POSITIONS, axes.VISION_EMBED),
            name="position_embedding",
            **kinds,
        )
        encoder = Encoder(
            num_layers=cfg.num_hidden_layers,
            hidden=cfg.intermediate_size,
            num_heads=cfg.num_attention_heads,
            epsilon=cfg.layer_norm_eps,
            hidden_act="gelu",
            remat=self.remat,
            name="encoder",
            **kinds,
        )
        valid = jnp.arange(tokens) < length[:, None]
        end = jnp.broadcast_to(length[:, None], ids.shape).astype(jnp.int32)
        x = encoder(table(ids) + positions(jnp.arange(tokens)), (jnp.where(valid, 0, end), end))
        x = LayerNorm(cfg.layer_norm_eps, name="final_layer_norm", **kinds)(x)
        total = jnp.sum(jnp.where(valid[..., None], x, 0), axis=1, dtype=jnp.float32)
        return (total / jnp.maximum(length, 1)[:, None]).astype(self.dtype)

"""MetaQuery's connector: what a language model made of its queries, as a generator's condition.

Source: arXiv 2504.06256, section 3, and facebookresearch/metaquery (`transformer_encoder.py`,
`model.py` in models/). Blocks of Qwen2 whose positions see each other whole, with norms of
queries and keys behind the rotation; a projection to the generator's width; a norm whose scale
starts at what the generator is used to. Either the blocks come first, at the language model's
width, or the projection does.
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
from unijax.models.llama import Layer, LlamaConfig
from unijax.nn.layers import Dense, RMSNorm
from unijax.nn.stack import stack
from unijax.ops.attention import full_intervals
from unijax.ops.rope import rope_tables

ORDERS = ("enc_proj", "proj_enc")
NORM_EPSILON = 1e-5
INIT = nn.initializers.normal(0.014)


@dataclasses.dataclass(frozen=True)
class ConnectorConfig:
    """Shape of a connector.

    Attributes:
      hidden_size: width of the language model.
      output_size: width of the generator's context.
      num_hidden_layers: blocks.
      head_dim: of the blocks, whose MLP is four times as wide as they are.
      order: "enc_proj", blocks and then the projection, or "proj_enc".
      scale: what the scale of the last norm starts at: sqrt(5.5) for Sana, 1 for SD1.5.

    Raises:
      UserError: widths that do not divide, or an unknown order.
    """

    hidden_size: int
    output_size: int
    num_hidden_layers: int = 24
    head_dim: int = 64
    order: str = "enc_proj"
    scale: float = 1.0

    def __post_init__(self):
        if self.order not in ORDERS:
            raise UserError(
                "ConnectorConfig.order", repr(self.order), f"one of {ORDERS}", "Correct the config."
            )
        if self.num_hidden_layers < 1:
            raise UserError(
                "ConnectorConfig.num_hidden_layers", f"{self.num_hidden_layers}", "at least 1",
                "Change it.",
            )  # fmt: skip
        if self.width % self.head_dim:
            raise UserError(
                "ConnectorConfig.head_dim",
                f"{self.head_dim}",
                f"a divisor of the blocks' width, {self.width}",
                "Change one of them.",
            )

    @property
    def width(self) -> int:
        """Of the blocks."""
        return self.hidden_size if self.order == "enc_proj" else self.output_size

    @property
    def blocks(self) -> LlamaConfig:
        """The blocks as those of a decoder, of which only they are used."""
        heads = self.width // self.head_dim
        return LlamaConfig(
            1, self.width, 4 * self.width, self.num_hidden_layers, heads, heads, self.head_dim,
            1e-6, 1e4, qkv_bias=True, qk_norm="rms_norm",
        )  # fmt: skip

    def count_parameters(self) -> int:
        """All of them."""
        h, c = self.hidden_size, self.output_size
        blocks = self.blocks.count_parameters()["layers"] - self.width  # without its last norm
        return blocks + (h + 1) * c + (c + 1) * c + c

    def flops(self, tokens: int) -> int:
        """Of the products of a forward pass over the queries of an image; 2 per multiply-add."""
        h, c = self.hidden_size, self.output_size
        blocks = tokens * self.blocks.flops_per_token() + tokens**2 * self.blocks.flops_per_pair()
        return blocks + 2 * tokens * (h * c + c * c)

    def last_flops(self, tokens: int) -> int:
        """The share of it of every block's last product, which recomputation need not do again."""
        return 2 * tokens * self.num_hidden_layers * 4 * self.width**2


class Connector(nn.Module):
    """The connector.

    Attributes:
      config: sizes.
      remat: of the blocks: "none", "dots" or "full" (`nn.stack`).
    """

    config: ConnectorConfig
    remat: str = "none"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        cfg, kinds = self.config, dict(dtype=self.dtype, param_dtype=self.param_dtype)
        self.layers = stack(
            Layer, cfg.num_hidden_layers, self.remat, "layers", config=cfg.blocks, init=INIT,
            **kinds,
        )  # fmt: skip
        c = cfg.output_size
        self.proj_in = Dense(c, (axes.EMBED, axes.MLP), kernel_init=INIT, **kinds)
        self.proj_out = Dense(c, (axes.MLP, axes.EMBED), kernel_init=INIT, **kinds)
        self.norm = RMSNorm(NORM_EPSILON, start=cfg.scale, **kinds)

    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N C"]:
        """The condition, from the hidden states of an image's queries."""
        if self.config.order == "enc_proj":
            return self.norm(self._project(self._encode(x)))
        return self.norm(self._encode(self._project(x)))

    def _encode(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        b, n, _ = x.shape
        position = jnp.broadcast_to(jnp.arange(n), (b, n))
        rope = rope_tables(position, self.config.head_dim, self.config.blocks.rope_theta)
        return self.layers(x, None, (None, rope, *full_intervals(b, n, n)))[0]

    def _project(self, x: Float[Array, "B N D"]) -> Float[Array, "B N C"]:
        return self.proj_out(jax.nn.gelu(self.proj_in(x), approximate=True))

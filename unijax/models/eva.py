"""EVA vision towers: pixels to a class token and one feature per patch.

EVA-01 (arXiv 2211.07636), EVA-02 (arXiv 2303.11331) and the vision towers of EVA-CLIP (arXiv
2303.15389). All are ViTs (arXiv 2010.11929) whose keys have no bias; what else they differ in is
`EvaConfig`. They compute what timm's `Eva` of the same name computes up to its last norm.

Each pair of channels that EVA-02 turns together lies in the half-split layout of `ops.rope`, where
its releases have neighbours: queries and keys are permuted on the way in and out (`interop`).
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, UInt32

from unijax.core.errors import UserError
from unijax.nn.encoder import ACTIVATIONS, SWIGLU, Encoder, EncoderConfig
from unijax.nn.initializers import SCHEMES
from unijax.nn.layers import LayerNorm
from unijax.nn.patch_embedding import PatchEmbedding
from unijax.ops.attention import full_intervals
from unijax.ops.dropping import kept_count, kept_patches
from unijax.ops.rope import grid_rope_tables

FEATURES = ("post_norm", "pre_norm")
ROPE_THETA = 10000.0


@dataclasses.dataclass(frozen=True)
class EvaConfig:
    """Shape of a tower, and what it does in training.

    Attributes:
      image_size: pixels of a side.
      hidden_act: a key of `nn.encoder.ACTIVATIONS`, or "swiglu".
      rope_grid: patches of the side that rotary positions were trained with; 0: there are none.
      attention_norm: EVA-CLIP's `inner_attn_ln`.
      mlp_norm: EVA-02's `ffn_ln` (sub-LN).
      post_norm: norms behind the branches (EVA-02-CLIP-E).
      layer_scale: initial value of a learned scale of every branch; 0: there is none.
      mask_token: there is one, for masked image modelling.
      drop_path: how often the last block drops a branch.
      patch_dropout: share of a picture's patches that are left out.
      patch_gradient: share of its gradient that the projection of patches gets.
      features: "post_norm": after the last norm; "pre_norm": without it.
      init: a key of `nn.initializers.SCHEMES`.
      kind: "eva", which tells it from other towers in a config.

    Raises:
      UserError: sizes that do not divide, a share that is none, or an unknown name.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int = 224
    patch_size: int = 14
    layer_norm_eps: float = 1e-6
    hidden_act: str = "gelu"
    rope_grid: int = 0
    attention_norm: bool = False
    mlp_norm: bool = False
    post_norm: bool = False
    layer_scale: float = 0.0
    mask_token: bool = False
    drop_path: float = 0.0
    patch_dropout: float = 0.0
    patch_gradient: float = 1.0
    features: str = "post_norm"
    init: str = "eva02"
    kind: str = "eva"

    def __post_init__(self):
        def refuse(name: str, expected: str):
            found = repr(getattr(self, name))
            raise UserError(f"EvaConfig.{name}", found, expected, "Correct the config.")

        if self.image_size % self.patch_size:
            refuse("image_size", f"a multiple of patch_size={self.patch_size}")
        heads = self.num_attention_heads
        if self.hidden_size % heads:
            refuse("num_attention_heads", f"a divisor of hidden_size={self.hidden_size}")
        if self.rope_grid and self.hidden_size // heads % 4:
            refuse("num_attention_heads", "heads of a multiple of 4 channels, for rotary positions")
        for name in ("drop_path", "patch_dropout"):
            if not 0 <= getattr(self, name) < 1:
                refuse(name, "a share from 0 to below 1")
        for name, allowed in (
            ("hidden_act", (*ACTIVATIONS, SWIGLU)),
            ("features", FEATURES),
            ("init", tuple(SCHEMES)),
            ("kind", ("eva",)),
        ):
            if getattr(self, name) not in allowed:
                refuse(name, f"one of {[*allowed]}")

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
        return EncoderConfig(
            num_layers=self.num_hidden_layers,
            hidden=self.intermediate_size,
            num_heads=self.num_attention_heads,
            epsilon=self.layer_norm_eps,
            hidden_act=self.hidden_act,
            key_bias=False,
            attention_norm=self.attention_norm,
            mlp_norm=self.mlp_norm,
            post_norm=self.post_norm,
            layer_scale=self.layer_scale,
            drop_path=self.drop_path,
            init=self.init,
        )

    def flops_per_image(self, training: bool = False) -> int:
        """Of the matrix products of a forward pass, 2 per multiply-add.

        Args:
          training: with patches left out.
        """
        n, d = self._patches(training), self.hidden_size
        return 2 * n * 3 * self.patch_size**2 * d + self.encoder.flops(d, n + 1, (n + 1) ** 2)

    def last_flops_per_image(self, training: bool = False) -> int:
        """The share of it that recomputation need not do again: patches, last product of layers."""
        n, d = self._patches(training), self.hidden_size
        return 2 * n * 3 * self.patch_size**2 * d + self.encoder.last_flops(d, n + 1)

    def _patches(self, training: bool) -> int:
        return kept_count(self.num_tokens, self.patch_dropout) if training else self.num_tokens


_GIANT = EvaConfig(1408, 6144, 40, 16, init="eva01")
_TINY, _SMALL = (
    EvaConfig(width, width * 8 // 3, 12, width // 64, hidden_act=SWIGLU, rope_grid=16)
    for width in (192, 384)
)
_BASE, _LARGE = (
    EvaConfig(
        width, width * 8 // 3, layers, width // 64, hidden_act=SWIGLU, rope_grid=16, mlp_norm=True
    )
    for width, layers in ((768, 12), (1024, 24))
)
_BASE_CLIP, _LARGE_CLIP = (
    dataclasses.replace(tower, attention_norm=True, patch_size=patch, init="eva_clip")
    for tower, patch in ((_BASE, 16), (_LARGE, 14))
)


def _at(config: EvaConfig, image_size: int) -> EvaConfig:
    return dataclasses.replace(config, image_size=image_size)


# By timm's names; those of EVA-CLIP have `clip` in them.
SIZES = {
    "eva_giant_patch14_224": _GIANT,
    "eva_giant_patch14_336": _at(_GIANT, 336),
    "eva_giant_patch14_560": _at(_GIANT, 560),
    "eva02_tiny_patch14_224": _TINY,
    "eva02_tiny_patch14_336": _at(_TINY, 336),
    "eva02_small_patch14_224": _SMALL,
    "eva02_small_patch14_336": _at(_SMALL, 336),
    "eva02_base_patch14_224": _BASE,
    "eva02_base_patch14_448": _at(_BASE, 448),
    "eva02_large_patch14_224": _LARGE,
    "eva02_large_patch14_448": _at(_LARGE, 448),
    "eva_giant_patch14_clip_224": dataclasses.replace(_GIANT, init="eva_clip"),
    "eva02_base_patch16_clip_224": _BASE_CLIP,
    "eva02_large_patch14_clip_224": _LARGE_CLIP,
    "eva02_large_patch14_clip_336": _at(_LARGE_CLIP, 336),
    "eva02_enormous_patch14_clip_224": EvaConfig(
        1792, 15360, 64, 16, post_norm=True, init="eva_clip"
    ),
    # EVA01-CLIP-B/16 of the authors' configs: the one with layer scale, and not in timm.
    "eva_base_patch16_clip_224": EvaConfig(
        768, 3072, 12, 12, patch_size=16, layer_scale=0.1, init="eva_clip"
    ),
    "eva02_test": EvaConfig(
        32, 85, 2, 2, image_size=32, patch_size=8, hidden_act=SWIGLU, rope_grid=3, mlp_norm=True
    ),
}


class Eva(nn.Module):
    """The tower.

    Attributes:
      config: sizes.
      remat: of the layers: "none", "dots" or "full" (`nn.stack`).
    """

    config: EvaConfig
    remat: str = "none"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        pixels: Float[Array, "B height width 3"],
        seed: UInt32[Array, " B"] | None = None,
        masked: Bool[Array, "B N"] | None = None,
    ) -> Float[Array, "B tokens D"]:
        """The class token, then the patches in raster order: all, or those that remain.

        Args:
          pixels: of the mean and deviation that the tower is trained with.
          seed: of each picture: it says which branches and patches of it are dropped. None: none.
          masked: True for a patch that the mask token stands in for.

        Raises:
          UserError: if there is no mask token, if patches are both left out and masked, or if the
            mask is of another grid.
        """
        cfg, kinds = self.config, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        kept = None
        if cfg.patch_dropout and seed is not None:
            kept = kept_patches(seed, cfg.num_tokens, cfg.patch_dropout)
        if masked is not None and (kept is not None or not cfg.mask_token):
            raise UserError(
                "masked pictures",
                f"mask_token={cfg.mask_token}, patch_dropout={cfg.patch_dropout}",
                "a tower with a mask token that leaves no patches out",
                "Set model.vision.mask_token=True and model.vision.patch_dropout=0.",
            )
        if masked is not None and masked.shape[1] != cfg.num_tokens:
            raise UserError(
                "masked pictures",
                f"a mask of {masked.shape[1]} patches",
                f"one of {cfg.grid} x {cfg.grid}, the tower's patches",
                "Make masks of the grid of model.vision: image_size / patch_size.",
            )
        scheme = SCHEMES[cfg.init]
        embed = PatchEmbedding(
            cfg.num_tokens,
            cfg.patch_size,
            cfg.hidden_size,
            class_token=True,
            mask_token=cfg.mask_token,
            gradient=cfg.patch_gradient,
            patch_init=scheme.patch,
            token_init=scheme.token,
            name="embeddings",
            **kinds,
        )
        x = embed(pixels, masked, kept)
        b, n, _ = x.shape
        rope = None
        if cfg.rope_grid:
            head_dim = cfg.hidden_size // cfg.num_attention_heads
            cos, sin = grid_rope_tables(cfg.grid, head_dim, ROPE_THETA, cfg.rope_grid)
            # A first row for the class token, which has no place: it is not turned.
            first = ((1, 0), (0, 0))
            rope = jnp.pad(cos, first, constant_values=1.0), jnp.pad(sin, first)
            at = jnp.arange(n)[None] if kept is None else jnp.pad(kept + 1, first[::-1])
            rope = tuple(table[jnp.broadcast_to(at, (b, n))] for table in rope)
        encoder = Encoder(cfg.encoder, self.remat, name="encoder", **kinds)
        x = encoder(x, full_intervals(b, n, n), rope, seed)
        if cfg.features == "post_norm":
            x = LayerNorm(cfg.layer_norm_eps, name="post_layernorm", **kinds)(x)
        return x

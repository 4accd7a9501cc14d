"""The vision tower of Qwen2.5-VL: pictures of any size to features (arXiv 2502.13923, section 2.1).

Patches of all pictures of a row lie in one sequence, the pictures one after another, each window by
window, in a window the 2 x 2 patches that become one feature together. So what a patch sees is an
interval: its window in most blocks, its picture in a few. Queries and keys turn with the patch's
row and column. Parameters are called as in transformers' `Qwen2_5_VisionTransformerPretrainedModel`
(`mlp_0` is `mlp.0`), with queries, keys and values apart.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from unijax.core import axes
from unijax.core.errors import UserError
from unijax.core.mesh import POSITIONS, ROWS, WHOLE, lay
from unijax.nn.layers import Dense, RMSNorm
from unijax.nn.stack import stack
from unijax.ops.attention import attention
from unijax.ops.patches import patchify
from unijax.ops.rope import apply_rope

NORM_EPSILON = 1e-6
THETA = 10000.0
FRAMES = 2  # that a patch spans; of a still picture they are the same


@dataclasses.dataclass(frozen=True)
class QwenVisionConfig:
    """Shape of a tower. Field names but `image_size` are those of transformers' vision config.

    Attributes:
      image_size: pixels of a side, of the square pictures that a system shows it.

    Raises:
      UserError: sizes that do not divide, or a picture smaller or larger than the release takes.
    """

    image_size: int = 448
    patch_size: int = 14
    hidden_size: int = 1280
    intermediate_size: int = 3420
    depth: int = 32
    num_heads: int = 16
    spatial_merge_size: int = 2
    window_size: int = 112
    fullatt_block_indexes: tuple[int, ...] = (7, 15, 23, 31)
    out_hidden_size: int = 2048
    min_pixels: int = 3136  # of a picture, as its processor has it
    max_pixels: int = 12845056
    kind: str = "qwen2_5_vl"  # among towers

    def __post_init__(self):
        unit = self.patch_size * self.spatial_merge_size
        for name, size, divisor in (
            ("image_size", self.image_size, unit),
            ("window_size", self.window_size, unit),
            ("hidden_size", self.hidden_size, 4 * self.num_heads),
        ):
            if size % divisor:
                raise UserError(
                    f"QwenVisionConfig.{name}", f"{size}", f"a multiple of {divisor}", "Change it."
                )
        self.check_size("QwenVisionConfig.image_size", self.image_size, self.image_size)
        if not all(0 <= i < self.depth for i in self.fullatt_block_indexes):
            raise UserError(
                "QwenVisionConfig.fullatt_block_indexes", f"{self.fullatt_block_indexes}",
                f"blocks from 0 to {self.depth - 1}", "Correct them.",
            )  # fmt: skip

    def check_size(self, where: str, height: int, width: int) -> None:
        """Raises a UserError for a picture outside the limits of the tower."""
        unit, pixels = self.patch_size * self.spatial_merge_size, height * width
        if height % unit or width % unit or not self.min_pixels <= pixels <= self.max_pixels:
            raise UserError(
                where,
                f"a picture of {width} x {height} pixels",
                f"sides that are multiples of {unit}, and {self.min_pixels:,} to "
                f"{self.max_pixels:,} pixels",
                "Resize the picture.",
            )

    @property
    def num_hidden_layers(self) -> int:
        """As other towers call it."""
        return self.depth

    @property
    def num_attention_heads(self) -> int:
        """As other towers call it."""
        return self.num_heads

    @property
    def num_tokens(self) -> int:
        """Features of a square picture."""
        return (self.image_size // self.patch_size // self.spatial_merge_size) ** 2

    def count_parameters(self) -> int:
        """All of them."""
        d, m, four = self.hidden_size, self.intermediate_size, self._merged
        block = 4 * (d + 1) * d + 2 * (d + 1) * m + (m + 1) * d + 2 * d
        merger = d + (four + 1) * four + (four + 1) * self.out_hidden_size
        return FRAMES * 3 * self.patch_size**2 * d + self.depth * block + merger

    def flops_per_image(self) -> int:
        """Of the products of a forward pass over a square picture; 2 per multiply-add."""
        n, d, four = self._patches, self.hidden_size, self._merged
        each = FRAMES * 3 * self.patch_size**2 * d
        each += self.depth * (4 * d * d + 3 * d * self.intermediate_size)
        laid = packed([(self._side, self._side)], self)
        pairs = {name: int((ends[1] - ends[0]).sum()) for name, ends in
                 (("window", laid.window), ("whole", laid.whole))}  # fmt: skip
        few = len(self.fullatt_block_indexes)
        seen = few * pairs["whole"] + (self.depth - few) * pairs["window"]
        merger = n // self.spatial_merge_size**2 * (four * four + four * self.out_hidden_size)
        return 2 * (n * each + merger) + 4 * d * seen

    def last_flops_per_image(self) -> int:
        """The share of it that recomputation need not do again: patches, last product of blocks,
        the merger."""
        n, d, four = self._patches, self.hidden_size, self._merged
        merger = n // self.spatial_merge_size**2 * (four * four + four * self.out_hidden_size)
        patch = FRAMES * 3 * self.patch_size**2 * d
        return 2 * (n * (patch + self.depth * d * self.intermediate_size) + merger)

    @property
    def _side(self) -> int:
        return self.image_size // self.patch_size

    @property
    def _patches(self) -> int:
        return self._side**2

    @property
    def _merged(self) -> int:
        return self.hidden_size * self.spatial_merge_size**2


SIZES = {
    "qwen2.5_vl_3b": QwenVisionConfig(),
    "qwen2.5_vl_7b": QwenVisionConfig(out_hidden_size=3584),
}


class Packed(NamedTuple):
    """How the patches of some pictures lie in a sequence of N. On the host.

    Attributes:
      order: int32 [N], which patch of all, counted picture by picture in raster order, stands here.
      place: int32 [N, 2], its row and column in its picture.
      window, whole: kv_start and kv_end, int32 [N] each, of its window and of its picture.
      features: int32 [M], where each feature of all, in raster order, stands among those of the
        sequence.
    """

    order: np.ndarray
    place: np.ndarray
    window: tuple[np.ndarray, np.ndarray]
    whole: tuple[np.ndarray, np.ndarray]
    features: np.ndarray


def packed(
    grids: Sequence[tuple[int, int]], config: QwenVisionConfig, length: int | None = None
) -> Packed:
    """Of pictures of so many rows and columns of patches, padded to `length` patches."""
    merge = config.spatial_merge_size
    side = config.window_size // config.patch_size  # of a window, in patches
    order, place, features = [], [], []
    window, whole, before = [], [], 0
    for height, width in grids:
        row, column = np.divmod(np.arange(height * width), width)
        # Windows, the units within them, the patches of a unit: each in raster order.
        keys = [part for size in (side, merge, 1) for part in (row // size, column // size)]
        here = np.lexsort(keys[::-1])
        which = (row // side * (-(-width // side)) + column // side)[here]
        first = np.searchsorted(which, which, side="left")
        last = np.searchsorted(which, which, side="right")
        order.append(before + here)
        place.append(np.stack([row, column], axis=-1)[here])
        window.append((before + first, before + last))
        whole.append((np.full(len(here), before), np.full(len(here), before + len(here))))
        unit = (row // merge * (width // merge) + column // merge)[here][:: merge**2]
        features.append(before // merge**2 + np.argsort(unit))
        before += height * width
    filled = before if length is None else length
    assert filled >= before, (filled, before)

    def padded(parts: Sequence[np.ndarray], value: int) -> np.ndarray:
        found = np.concatenate(parts).astype(np.int32)
        rest = [(0, filled - before)] + [(0, 0)] * (found.ndim - 1)
        return np.pad(found, rest, constant_values=value)

    ends = lambda pairs: tuple(padded([p[i] for p in pairs], before) for i in (0, 1))  # noqa: E731
    return Packed(
        padded(order, 0), padded(place, 0), ends(window), ends(whole),
        np.concatenate(features).astype(np.int32),
    )  # fmt: skip


class QwenVision(nn.Module):
    """The tower.

    Attributes:
      config: sizes.
      remat: of the blocks: "none", "dots" or "full" (`nn.stack`).
    """

    config: QwenVisionConfig
    remat: str = "none"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        cfg, kinds = self.config, dict(dtype=self.dtype, param_dtype=self.param_dtype)
        names = (axes.PATCH, axes.VISION_EMBED)
        self.patch_embed = Dense(cfg.hidden_size, names, use_bias=False, **kinds)
        self.blocks = stack(Block, cfg.depth, self.remat, "blocks", config=cfg, **kinds)
        self.merger = Merger(cfg, **kinds)

    def __call__(self, pixels: Float[Array, "B height width 3"]) -> Float[Array, "B M D"]:
        """Features of every picture in raster order, from pixels as the release normalises them."""
        size = self.config.patch_size
        b, height, width, _ = pixels.shape
        laid = packed([(height // size, width // size)], self.config)
        patches = patchify(pixels, size)[:, laid.order]
        each = lambda x: jnp.broadcast_to(x, (b, *x.shape))  # noqa: E731
        found = self.sequence(
            patches, each(laid.place), tuple(map(each, laid.window)), tuple(map(each, laid.whole))
        )
        return found[:, laid.features]

    def sequence(
        self,
        patches: Float[Array, "B N patch"],
        place: Int[Array, "B N 2"],
        window: tuple[Int[Array, "B N"], Int[Array, "B N"]],
        whole: tuple[Int[Array, "B N"], Int[Array, "B N"]],
    ) -> Float[Array, "B M D"]:
        """Features of pictures of several sizes, as they lie; the other arguments as in `Packed`.

        Args:
          patches: each flattened as (row, column, channel).
        """
        cfg = self.config
        x = self.patch_embed(jnp.concatenate([patches] * FRAMES, axis=-1))
        quarter = cfg.hidden_size // cfg.num_heads // 4
        frequency = THETA ** (-jnp.arange(quarter, dtype=jnp.float32) / quarter)
        angle = (place[..., None] * frequency).reshape(*place.shape[:2], -1)
        rope = jnp.cos(angle), jnp.sin(angle)
        sees_all = np.isin(np.arange(cfg.depth), cfg.fullatt_block_indexes)
        x = self.blocks(x, jnp.asarray(sees_all), (rope, window, whole))[0]
        return self.merger(x)


class Block(nn.Module):
    """Attention within a window or a picture, then SwiGLU with biases."""

    config: QwenVisionConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x, sees_all, shared):
        cfg, kinds = self.config, dict(dtype=self.dtype, param_dtype=self.param_dtype)
        rope, window, whole = shared
        x = lay(x, ROWS, POSITIONS, WHOLE)
        ends = (jnp.where(sees_all, b, a) for a, b in zip(window, whole))
        h = RMSNorm(NORM_EPSILON, name="norm1", **kinds)(x)
        x = x + Attention(cfg.num_heads, name="attn", **kinds)(h, rope, *ends)
        h = RMSNorm(NORM_EPSILON, name="norm2", **kinds)(x)
        return x + SwiGLU(cfg.intermediate_size, name="mlp", **kinds)(h), None


class Attention(nn.Module):
    num_heads: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x, rope, kv_start, kv_end):
        kinds = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        b, n, d = x.shape
        into, out = (axes.VISION_EMBED, axes.VISION_HEADS), (axes.VISION_HEADS, axes.VISION_EMBED)
        q, k, v = (
            Dense(d, into, name=name, **kinds)(x).reshape(b, n, self.num_heads, -1)
            for name in ("q", "k", "v")
        )
        y = attention(apply_rope(q, *rope), apply_rope(k, *rope), v, kv_start, kv_end)
        return Dense(d, out, name="proj", **kinds)(y.reshape(b, n, d))


class SwiGLU(nn.Module):
    hidden: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        kinds = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        into, out = (axes.VISION_EMBED, axes.VISION_MLP), (axes.VISION_MLP, axes.VISION_EMBED)
        gate, up = (Dense(self.hidden, into, name=n, **kinds)(x) for n in ("gate_proj", "up_proj"))
        return Dense(x.shape[-1], out, name="down_proj", **kinds)(jax.nn.silu(gate) * up)


class Merger(nn.Module):
    """Patches that lie together become one feature of the language model's width."""

    config: QwenVisionConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B M E"]:
        kinds = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        four = x.shape[-1] * self.config.spatial_merge_size**2
        x = RMSNorm(NORM_EPSILON, name="ln_q", **kinds)(x).reshape(x.shape[0], -1, four)
        into, out = (axes.VISION_EMBED, axes.VISION_MLP), (axes.VISION_MLP, axes.EMBED)
        h = jax.nn.gelu(Dense(four, into, name="mlp_0", **kinds)(x), approximate=False)
        return Dense(self.config.out_hidden_size, out, name="mlp_2", **kinds)(h)

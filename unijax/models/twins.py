"""A decoder in which images have weights of their own: LMFusion (arXiv 2412.15188, section 3).

Every layer stands there twice, for text and for images, and the two meet in attention alone. Each
position goes through one of them: the layers for text work all T positions of a row, as they lie,
those for images the I x N places of its slots, so that neither is paid for by all.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from unijax.core.mesh import POSITIONS, ROWS, TENSOR, WHOLE, lay
from unijax.models.llama import KVCache, Layer, LlamaConfig, attend, through
from unijax.nn.layers import RMSNorm
from unijax.nn.stack import stack
from unijax.ops import rows
from unijax.ops.rope import rope_tables

SEPARATIONS = (
    "deep",  # norms, attention's products and SwiGLU: all but attention itself
    "shallow",  # SwiGLU and its norm; attention is the text's
)


class TwinLayer(nn.Module):
    """A layer of each, and the attention that joins them.

    Carries `(x, y)`: the residuals of text [B, T, D] and of images [B, I, N, D]. What stands in x
    where images are, and in y where none is, is worked and never seen.
    """

    config: LlamaConfig
    separation: str
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        kinds = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        self.text = Layer(self.config, **kinds)
        self.image = Layer(self.config, **kinds)

    def __call__(self, carry, cache, shared):
        x, y = carry
        rope, address, here, kv_start, kv_end = shared
        x = lay(x, ROWS, POSITIONS, WHOLE)
        b, i, n, d = y.shape
        flat = (b, i * n)
        if self.separation == "shallow":
            x = rows.place(x, y, address, here)
            heads, cache = attend(*self.text.before(x, rope, None), cache, kv_start, kv_end)
            x = self.text.after(x, heads, None)
            y = rows.collect(x, address, here, (i, n))
        else:
            # Angles stand with the positions; an image token has those of where it stands.
            turn = tuple(_collected(table, address, here, (i, n)) for table in rope)
            of_text = self.text.before(x, rope, None)
            of_images = self.image.before(y.reshape(*flat, d), turn, None)
            q, k, v = (
                _placed(text, image.reshape(b, i, n, -1), address, here)
                for text, image in zip(of_text, of_images)
            )
            heads, cache = attend(q, k, v, cache, kv_start, kv_end)
            seen = _collected(heads, address, here, (i, n), (TENSOR,))
            x = self.text.after(x, heads, None)
            y = self.image.after(y.reshape(*flat, d), seen, None).reshape(y.shape)
        x = self.text.feed(x, None)
        y = self.image.feed(y.reshape(*flat, d), None).reshape(y.shape)
        return (x, y), cache


def _placed(
    x: Float[Array, "B T H d"],
    images: Float[Array, "B I N Hd"],
    address: Int[Array, "B T"],
    here: Bool[Array, "B T"],
) -> Float[Array, "B T H d"]:
    """`rows.place` of heads, which stay split over devices."""
    flat = x.reshape(*x.shape[:2], -1)
    return rows.place(flat, images, address, here, (TENSOR,)).reshape(x.shape)


def _collected(
    x: Array, address: Array, here: Array, slots: tuple[int, int], width: tuple[str, ...] = WHOLE
) -> Array:
    """`rows.collect` of what has more dims than one behind T, slots and tokens as one dim."""
    b, t, *rest = x.shape
    found = rows.collect(x.reshape(b, t, -1), address, here, slots, width)
    return found.reshape(b, slots[0] * slots[1], *rest)


class Twins(nn.Module):
    """The layers of both, and the last norm of each.

    Parameters: `layers/text`, `layers/image`, `norm`, `image_norm`; unrolled, `layers_0/text`, ...

    Attributes:
      config: of both.
      separation: one of `SEPARATIONS`.
      remat: see nn.stack.
      unrolled: `layers_0`, `layers_1`, ... in place of a scan, as decoding wants them.
    """

    config: LlamaConfig
    separation: str
    remat: str = "none"
    unrolled: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        cfg, kinds = self.config, dict(dtype=self.dtype, param_dtype=self.param_dtype)
        how = dict(config=cfg, separation=self.separation, **kinds)
        if self.unrolled:
            self.layers = [TwinLayer(**how) for _ in range(cfg.num_hidden_layers)]
        else:
            self.layers = stack(TwinLayer, cfg.num_hidden_layers, self.remat, "layers", **how)
        self.norm = RMSNorm(cfg.rms_norm_eps, **kinds)
        self.image_norm = RMSNorm(cfg.rms_norm_eps, **kinds)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        images: Float[Array, "B I N D"],
        address: Int[Array, "B T"],
        here: Bool[Array, "B T"],
        position: Int[Array, "B T"],
        kv_start: Int[Array, "B T"],
        kv_end: Int[Array, "B T"],
        cache: KVCache | None = None,
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B I N D"], KVCache | None]:
        """Hidden states behind the last norms, of text and of images, and the cache.

        Args:
          x: embeddings; only those of text are seen.
          images: tokens of images.
          address: slot * N + offset of the image token of a position, where it is `here`.
          position, kv_start, kv_end, cache: as of `models.llama.Llama`.
        """
        rope = rope_tables(position, self.config.head_dim, self.config.rope_theta,
                           self.config.rope_scaling)  # fmt: skip
        shared = (rope, address, here, kv_start, kv_end)
        carry = x, images
        if not self.unrolled:
            (x, images), _ = self.layers(carry, None, shared)
            return self.norm(x), self.image_norm(images), None
        (x, images), cache = through(self.layers, carry, cache, shared, position.shape[1])
        return self.norm(x), self.image_norm(images), cache

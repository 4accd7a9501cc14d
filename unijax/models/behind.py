"""A frozen decoder of which a few positions depend on what trains: MetaQuery's queries.

What stands before them is worked once, without a gradient and hence without residuals; of it the
keys and values of every layer are kept. Then the positions that learn go through the layers, see
those and each other, and alone have a backward pass. The outputs are those of the decoder.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from unijax.core.mesh import POSITIONS, ROWS, WHOLE, lay
from unijax.models.llama import Layer, LlamaConfig, attend
from unijax.nn.layers import RMSNorm
from unijax.nn.stack import stack
from unijax.ops import rows
from unijax.ops.attention import attention
from unijax.ops.rope import rope_tables

Interval = tuple[Int[Array, "B _n"], Int[Array, "B _n"]]


class Before(Layer):
    """A layer that gives its keys and values, too."""

    def __call__(self, x, per_layer, shared):
        rope, kv_start, kv_end = shared
        x = lay(x, ROWS, POSITIONS, WHOLE)
        q, k, v = self.before(x, rope, None)
        heads, _ = attend(q, k, v, None, kv_start, kv_end)
        return self.feed(self.after(x, heads, None), None), (k, v)


class Behind(Layer):
    """A layer of Q positions of a row, with the keys and values of all others given."""

    def __call__(self, y, kept, shared):
        rope, address, here, kv_start, kv_end = shared
        q, k, v = self.before(y, rope, None)
        k, v = (_placed(old, new, address, here) for old, new in zip(kept, (k, v)))
        with jax.named_scope("self_attn"):
            heads = attention(q, k, v, kv_start, kv_end)
        return self.feed(self.after(y, heads, None), None), None


def _placed(old, new, address, here):
    b, t, h, d = old.shape
    new = new.reshape(b, 1, -1, h * d)
    return rows.place(old.reshape(b, t, h * d), new, address, here).reshape(old.shape)


class FrozenPrefix(nn.Module):
    """The decoder `models.llama.Llama`, applied with its parameters as they lie there.

    Attributes:
      config: of the decoder.
      remat: of the layers of the positions that learn (`nn.stack`).
    """

    config: LlamaConfig
    remat: str = "none"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def keys(
        self, x: Float[Array, "B T D"], position: Int[Array, "B T *A"], seen: Interval
    ) -> tuple[Any, Any]:
        """Keys and values of every layer, [L, B, T, Hkv, d]; no gradient comes back."""
        layers = self._stack(Before, "none")
        kept = layers(jax.lax.stop_gradient(x), None, (self._rope(position), *seen))[1]
        return jax.lax.stop_gradient(kept)

    @nn.compact
    def behind(
        self,
        y: Float[Array, "B Q D"],
        kept: tuple[Any, Any],
        position: Int[Array, "B Q *A"],
        seen: Interval,
        address: Int[Array, "B T"],
        here: Bool[Array, "B T"],
    ) -> Float[Array, "B Q D"]:
        """Hidden states of the positions that learn, after the last norm.

        Args:
          y: their embeddings.
          kept: of `keys`; what it has of these positions is not seen.
          seen: what of the row each sees.
          address: which of the Q a position of the row is, where it is `here`.
        """
        shared = (self._rope(position), address, here, *seen)
        y = self._stack(Behind, self.remat)(y, kept, shared)[0]
        kinds = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        return RMSNorm(self.config.rms_norm_eps, name="norm", **kinds)(y)

    def _stack(self, layer: type[nn.Module], remat: str) -> nn.Module:
        kinds = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        return stack(
            layer, self.config.num_hidden_layers, remat, "layers", config=self.config, **kinds
        )

    def _rope(self, position: Int[Array, "B T *A"]):
        c = self.config
        return rope_tables(position, c.head_dim, c.rope_theta, c.rope_scaling, c.mrope_section)

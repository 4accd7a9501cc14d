"""How likely a trained system finds texts: the negative log-likelihood of each answer of a row.

By the head as it is trained: where text ids share a softmax with those of images, that is the one.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from unijax.core.batch import PackedBatch, Target
from unijax.core.system import Params, RowSystem
from unijax.ops.attention import packed_intervals

CHUNK = 128  # positions of a row whose logits exist at one time


@functools.partial(jax.jit, static_argnames="system")
def text_nll(
    system: RowSystem, params: Params, batch: PackedBatch, length: Int[Array, "B"]
) -> Float[Array, "B T"]:
    """In nats, float32; 0 where a position does not answer with text.

    Args:
      params: as `system.for_decoding` lays them out.
      batch: one document a row, in the last `length` columns.
    """
    b, width = batch.tokens.shape
    position = jnp.maximum(jnp.arange(width, dtype=jnp.int32) - (width - length)[:, None], 0)
    seen = packed_intervals(batch.segment, batch.kind, batch.image, system.sees_whole)
    x = system.embed(params, batch)
    hidden, _ = system.decode(params, x, position, *seen, system.init_cache(b, width), batch.kind)
    answers = (batch.target_kind == Target.TEXT) & (batch.weight > 0)
    # Widths are rounded up (`decoding.bucket`), not always to whole chunks.
    more = -width % min(CHUNK, width)
    hidden = jnp.pad(hidden, ((0, 0), (0, more), (0, 0)))
    target = jnp.pad(jnp.where(answers, batch.target, 0), ((0, 0), (0, more)))
    chunks = (width + more) // min(CHUNK, width)

    def nll(part):
        hidden, target = part
        logits = system.head_logits(params, hidden)
        picked = jnp.take_along_axis(logits, target[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(logits, axis=-1) - picked

    def split(x):
        return jnp.moveaxis(x.reshape(b, chunks, -1, *x.shape[2:]), 1, 0)

    found = jax.lax.map(nll, (split(hidden), split(target)))
    found = jnp.moveaxis(found, 0, 1).reshape(b, -1)[:, :width]
    return jnp.where(answers, found, 0.0)

"""Attention as it is written: the dense mask and the fp32 softmax that all others must match."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from unijax.ops.attention.scores import capped


def attention_reference(
    q: Float[Array, "B Tq H D"],
    k: Float[Array, "B Tk Hkv D"],
    v: Float[Array, "B Tk Hkv D"],
    kv_start: Int[Array, "B Tq"],
    kv_end: Int[Array, "B Tq"],
    *,
    scale: float,
    soft_cap: float | None = None,
) -> Float[Array, "B Tq H D"]:
    """See `attention`. Holds the scores of all pairs, `[B, H, Tq, Tk]` in float32."""
    (b, tq, h, d), dtype = q.shape, q.dtype
    hkv = k.shape[2]
    g = h // hkv
    # The queries that share a key head lie side by side: XLA's CPU backend has no bfloat16 product
    # with more dimensions than these.
    q = q.reshape(b, tq, hkv, g, d).transpose(0, 2, 3, 1, 4).reshape(b, hkv, g * tq, d)
    scores = jnp.einsum("bhmd,bkhd->bhmk", q, k, preferred_element_type=jnp.float32) * scale
    scores = capped(scores, soft_cap)
    key = jnp.arange(k.shape[1])
    visible = (key >= kv_start[..., None]) & (key < kv_end[..., None])
    visible = visible[:, None, None]
    scores = scores.reshape(b, hkv, g, tq, -1)
    p = jax.nn.softmax(jnp.where(visible, scores, -1e30), axis=-1)
    p = jnp.where(visible, p, 0.0)  # a query without a key: zeros, not the mean of all values
    p = p.reshape(b, hkv, g * tq, -1).astype(v.dtype)
    out = jnp.einsum("bhmk,bkhd->bhmd", p, v, preferred_element_type=jnp.float32)
    out = out.reshape(b, hkv, g, tq, d).transpose(0, 3, 1, 2, 4)
    return out.reshape(b, tq, h, d).astype(dtype)

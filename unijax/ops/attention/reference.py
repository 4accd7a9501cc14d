"""Attention as it is written: the dense mask and the fp32 softmax that all others must match."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int


def attention_reference(
    q: Float[Array, "B Tq H D"],
    k: Float[Array, "B Tk Hkv D"],
    v: Float[Array, "B Tk Hkv D"],
    kv_start: Int[Array, "B Tq"],
    kv_end: Int[Array, "B Tq"],
    *,
    scale: float,
) -> Float[Array, "B Tq H D"]:
    """See `attention`. Holds the scores of all pairs, `[B, H, Tq, Tk]` in float32."""
    b, tq, h, d = q.shape
    hkv = k.shape[2]
    q = q.reshape(b, tq, hkv, h // hkv, d)
    scores = jnp.einsum("bqhgd,bkhd->bhgqk", q, k, preferred_element_type=jnp.float32) * scale
    key = jnp.arange(k.shape[1])
    visible = (key >= kv_start[..., None]) & (key < kv_end[..., None])
    visible = visible[:, None, None]
    top = jnp.max(scores, axis=-1, keepdims=True, where=visible, initial=-1e30)
    # Masked scores are replaced before exp, so that none of them overflows into the gradient.
    p = jnp.where(visible, jnp.exp(jnp.where(visible, scores - top, 0.0)), 0.0)
    total = jnp.sum(p, axis=-1, keepdims=True)
    p = p / jnp.where(total > 0, total, 1.0)  # a query without a key: zero, not 0 / 0
    out = jnp.einsum("bhgqk,bkhd->bqhgd", p.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return out.reshape(b, tq, h, d).astype(q.dtype)

"""Attention as it is written: the dense mask and the fp32 softmax that all others must match."""

import jax
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
    p = jax.nn.softmax(jnp.where(visible, scores, -1e30), axis=-1)
    p = jnp.where(visible, p, 0.0)  # a query without a key: zeros, not the mean of all values
    out = jnp.einsum("bhgqk,bkhd->bqhgd", p.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return out.reshape(b, tq, h, d).astype(q.dtype)

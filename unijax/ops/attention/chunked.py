"""Attention in blocks, in plain XLA: no array of all pairs, forward or backward.

The online softmax of FlashAttention (arXiv 2205.14135, algorithm 1; backward: arXiv 2307.08691,
algorithm 2), with the block ranges taken from the intervals: a block of queries visits the blocks
of keys between the first `kv_start` and the last `kv_end` in it, and no other. Kept for the
backward pass are the inputs, the output and one log-sum-exp for each query and head.

Inside, arrays are block-major: `n` counts the blocks of all rows, one after another, so that every
row has its own trip counts. The queries of the `G` heads that share a key head lie side by side in
a block: `[n, Hkv, G * bq, D]` against `[n, Hkv, bk, D]`.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float, Int

BLOCK = 64  # the quickest on CPU for documents of 75 and of 700 tokens: bench/attention.py
LOWEST = -1e30  # below every score; finite, so that the difference of two of them is a number
HIDDEN = -2e30  # so far below LOWEST that a hidden pair adds exp(HIDDEN - LOWEST) = 0 to anything


def attention_chunked(
    q: Float[Array, "B Tq H D"],
    k: Float[Array, "B Tk Hkv D"],
    v: Float[Array, "B Tk Hkv D"],
    kv_start: Int[Array, "B Tq"],
    kv_end: Int[Array, "B Tq"],
    *,
    scale: float,
    block_q: int = BLOCK,
    block_k: int = BLOCK,
) -> Float[Array, "B Tq H D"]:
    """See `attention`; `block_q` queries and `block_k` keys at most are worked at one time."""
    (b, tq, h, d), (_, tk, hkv, _) = q.shape, k.shape
    nq, bq = _blocks(tq, block_q)
    nk, bk = _blocks(tk, block_k)

    def block_major(x, count, size):
        x = jnp.pad(x, ((0, 0), (0, count * size - x.shape[1]), (0, 0), (0, 0)))
        x = x.reshape(b, count, size, hkv, -1, d).transpose(0, 1, 3, 4, 2, 5)
        return x.reshape(b * count, hkv, -1, d)

    def block_major_ends(ends):
        # Filling repeats the last entry: no block grows by it.
        ends = jnp.pad(ends, ((0, 0), (0, nq * bq - tq)), mode="edge")
        return jnp.tile(ends.reshape(b * nq, bq), h // hkv)

    out = _attend(
        block_major(q, nq, bq), block_major(k, nk, bk), block_major(v, nk, bk),
        block_major_ends(kv_start), block_major_ends(kv_end),
        scale, nq, nk,
    )  # fmt: skip
    out = out.reshape(b, nq, hkv, h // hkv, bq, d).transpose(0, 1, 4, 2, 3, 5)
    return out.reshape(b, nq * bq, h, d)[:, :tq]


def _blocks(length: int, largest: int) -> tuple[int, int]:
    """Number and size of blocks: as few as `largest` allows, as equal as can be."""
    count = -(-length // largest)
    return count, -(-length // count)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _attend(q, k, v, start, end, scale, nq, nk):
    return _forward(q, k, v, start, end, scale, nq, nk)[0]


def _forward(q, k, v, start, end, scale, nq, nk):
    _, _, bk, d = k.shape

    def block(_, x):
        n, q_n, start_n, end_n = x

        def step(j, state):
            top, total, acc = state
            k_j, v_j = _take(k, n // nq * nk + j), _take(v, n // nq * nk + j)
            visible = _visible(start_n[:, None], end_n[:, None], j * bk + jnp.arange(bk))
            s = jnp.where(visible, _dot("hqd,hkd->hqk", q_n, k_j) * scale, HIDDEN)
            new_top = jnp.maximum(top, jnp.max(s, axis=-1))
            p = jnp.exp(s - new_top[..., None])
            shrink = jnp.exp(top - new_top)
            total = total * shrink + jnp.sum(p, axis=-1)
            acc = acc * shrink[..., None] + _dot("hqk,hkd->hqd", p.astype(v.dtype), v_j)
            return new_top, total, acc

        rows = q_n.shape[:2]
        state = jnp.full(rows, LOWEST), jnp.zeros(rows), jnp.zeros((*rows, d))
        top, total, acc = jax.lax.fori_loop(*_key_blocks(start_n, end_n, bk), step, state)
        total = jnp.where(total > 0, total, 1.0)  # a query without a key: zero, not 0 / 0
        return None, ((acc / total[..., None]).astype(q.dtype), top + jnp.log(total))

    _, (out, lse) = jax.lax.scan(block, None, (jnp.arange(len(q)), q, start, end))
    return out, lse


def _attend_fwd(q, k, v, start, end, scale, nq, nk):
    out, lse = _forward(q, k, v, start, end, scale, nq, nk)
    out, lse = checkpoint_name(out, "attention"), checkpoint_name(lse, "attention")
    return out, (q, k, v, start, end, out, lse)


def _attend_bwd(scale, nq, nk, residuals, dout):
    q, k, v, start, end, out, lse = residuals
    bk = k.shape[2]
    delta = jnp.sum(dout.astype(jnp.float32) * out.astype(jnp.float32), axis=-1)

    def block(carry, x):
        n, q_n, start_n, end_n, dout_n, lse_n, delta_n = x

        def step(j, state):
            # Keys first, queries last: what is known of a query then lies along the fast dim.
            dq_n, dk, dv = state
            at = n // nq * nk + j
            k_j, v_j = _take(k, at), _take(v, at)
            visible = _visible(start_n, end_n, j * bk + jnp.arange(bk)[:, None])
            s = jnp.where(visible, _dot("hkd,hqd->hkq", k_j, q_n) * scale, HIDDEN)
            p = jnp.exp(s - lse_n[:, None])
            dp = _dot("hkd,hqd->hkq", v_j, dout_n)
            ds = (p * (dp - delta_n[:, None]) * scale).astype(q.dtype)
            dv = _add(dv, at, _dot("hkq,hqd->hkd", p.astype(v.dtype), dout_n))
            dk = _add(dk, at, _dot("hkq,hqd->hkd", ds, q_n))
            return dq_n + _dot("hkd,hkq->hdq", k_j, ds), dk, dv

        state = jnp.zeros(q_n.swapaxes(1, 2).shape), *carry
        dq_n, *carry = jax.lax.fori_loop(*_key_blocks(start_n, end_n, bk), step, state)
        return tuple(carry), dq_n.swapaxes(1, 2).astype(q.dtype)

    xs = jnp.arange(len(q)), q, start, end, dout, lse, delta
    (dk, dv), dq = jax.lax.scan(block, (jnp.zeros(k.shape), jnp.zeros(v.shape)), xs)
    return dq, dk.astype(k.dtype), dv.astype(v.dtype), None, None


_attend.defvjp(_attend_fwd, _attend_bwd)


def _dot(spec: str, x: Array, y: Array) -> Array:
    return jnp.einsum(spec, x, y, preferred_element_type=jnp.float32)


def _take(blocks: Array, at: Array) -> Array:
    return jax.lax.dynamic_index_in_dim(blocks, at, keepdims=False)


def _add(blocks: Array, at: Array, x: Array) -> Array:
    return jax.lax.dynamic_update_index_in_dim(blocks, _take(blocks, at) + x, at, axis=0)


def _visible(start, end, key):
    return (key >= start) & (key < end)


def _key_blocks(start_n, end_n, bk):
    """The blocks of keys that a block of queries needs: none when it is all padding."""
    start, end = start_n[0], end_n[-1]
    return start // bk, jnp.where(start < end, (end + bk - 1) // bk, 0)

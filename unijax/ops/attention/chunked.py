"""Attention in blocks, in plain XLA: no array of all pairs, forward or backward.

The online softmax of FlashAttention (arXiv 2205.14135, algorithm 1; backward: arXiv 2307.08691,
algorithm 2). A block of queries walks through the list of the blocks of keys that hold an allowed
pair (`blocks.BlockMap`): first those to be masked, then the others, which need no mask. Kept for
the backward pass are the inputs, the output and one log-sum-exp for each query and head.

Inside, arrays are block-major: `n` counts the blocks of all rows, one after another, so that every
row has its own trip counts. The queries of the `G` heads that share a key head lie side by side in
a block: `[n, Hkv, G * bq, D]` against `[n, Hkv, bk, D]`.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from unijax.ops.attention.block_sizes import block_sizes
from unijax.ops.attention.blocks import block_map
from unijax.ops.attention.scores import HIDDEN, LOWEST, capped, capped_slope
from unijax.ops.attention.vjp import Kernels, Options, attend


def attention_chunked(
    q: Float[Array, "B Tq H D"],
    k: Float[Array, "B Tk Hkv D"],
    v: Float[Array, "B Tk Hkv D"],
    kv_start: Int[Array, "B Tq"],
    kv_end: Int[Array, "B Tq"],
    *,
    scale: float,
    soft_cap: float | None = None,
    block_q: int | None = None,
    block_k: int | None = None,
) -> Float[Array, "B Tq H D"]:
    """See `attention`; `block_q` queries and `block_k` keys at most are worked at one time."""
    sizes = block_sizes("chunked", q.shape[3], q.dtype, block_q=block_q, block_k=block_k)
    return attend(q, k, v, kv_start, kv_end, KERNELS, Options(scale, soft_cap, **sizes))


def _blocks(length: int, largest: int) -> tuple[int, int]:
    """Number and size of blocks: as few as `largest` allows, as equal as can be."""
    count = -(-length // largest)
    return count, -(-length // count)


def _forward(q, k, v, start, end, options):
    (b, tq, h, _), (_, tk, hkv, _) = q.shape, k.shape
    nq, bq = _blocks(tq, options.block_q)
    nk, bk = _blocks(tk, options.block_k)
    q = _block_major(q, nq, bq, hkv)
    k, v = (_block_major(x, nk, bk, hkv) for x in (k, v))
    lists = _lists(start, end, tk, bq, bk)
    scale = options.scale if options.soft_cap is None else 1.0  # of what `step` calls scores

    def block(_, x):
        n, q_n, start_n, end_n, *listed = x

        def step(j, masked, state):
            top, total, acc = state
            k_j, v_j = _take(k, n // nq * nk + j), _take(v, n // nq * nk + j)
            s = _dot("hqd,hkd->hqk", q_n, k_j)
            if options.soft_cap is not None:
                s = capped(s * options.scale, options.soft_cap)
            if masked:
                visible = _visible(start_n[:, None], end_n[:, None], j * bk + jnp.arange(bk))
                s = jnp.where(visible, s, HIDDEN)
            new_top = jnp.maximum(top, jnp.max(s, axis=-1))
            # The scale comes last: XLA may round a product and its difference from the top once,
            # and of scores of 1e10 no key would then be the largest.
            p = jnp.exp((s - new_top[..., None]) * scale)
            if masked:
                p = jnp.where(visible, p, 0.0)
            shrink = jnp.exp((top - new_top) * scale)
            total = total * shrink + jnp.sum(p, axis=-1)
            acc = acc * shrink[..., None] + _dot("hqk,hkd->hqd", p, v_j)
            return new_top, total, acc

        rows = q_n.shape[:2]
        state = jnp.full(rows, LOWEST), jnp.zeros(rows), jnp.zeros(q_n.shape)
        top, total, acc = _walk(listed, step, state)
        seen, total = total > 0, jnp.where(total > 0, total, 1.0)
        # A query without a key: zero, not 0 / 0.
        lse = jnp.where(seen, top * scale + jnp.log(total), LOWEST)
        return None, (acc / total[..., None], lse)

    ends = (_ends_block_major(x, nq, bq, h // hkv) for x in (start, end))
    _, (out, lse) = jax.lax.scan(block, None, (jnp.arange(len(q)), q, *ends, *lists))
    lse = lse.reshape(b, nq, h, bq).transpose(0, 2, 1, 3).reshape(b, h, nq * bq)
    return _row_major(out, b, tq, nq), lse[..., :tq]


def _backward(q, k, v, start, end, dout, lse, delta, options):
    (b, tq, h, _), (_, tk, hkv, _) = q.shape, k.shape
    nq, bq = _blocks(tq, options.block_q)
    nk, bk = _blocks(tk, options.block_k)
    scale, soft_cap = options.scale, options.soft_cap
    q, dout = (_block_major(x, nq, bq, hkv) for x in (q, dout))
    k, v = (_block_major(x, nk, bk, hkv) for x in (k, v))
    lists = _lists(start, end, tk, bq, bk)
    lse, delta = (
        _block_major(x.transpose(0, 2, 1)[..., None], nq, bq, hkv)[..., 0] for x in (lse, delta)
    )

    def block(carry, x):
        n, q_n, start_n, end_n, dout_n, lse_n, delta_n, *listed = x

        def step(j, masked, state):
            # Keys first, queries last: what is known of a query then lies along the fast dim.
            dq_n, dk, dv = state
            at = n // nq * nk + j
            k_j, v_j = _take(k, at), _take(v, at)
            shown = s = capped(_dot("hkd,hqd->hkq", k_j, q_n) * scale, soft_cap)
            if masked:
                visible = _visible(start_n, end_n, j * bk + jnp.arange(bk)[:, None])
                s = jnp.where(visible, shown, HIDDEN)
            p = _exp(s - lse_n[:, None])
            dp = _dot("hkd,hqd->hkq", v_j, dout_n)
            ds = p * (dp - delta_n[:, None]) * (scale * capped_slope(shown, soft_cap))
            dv = _add(dv, at, _dot("hkq,hqd->hkd", p, dout_n))
            dk = _add(dk, at, _dot("hkq,hqd->hkd", ds, q_n))
            return dq_n + _dot("hkd,hkq->hdq", k_j, ds), dk, dv

        state = jnp.zeros(q_n.swapaxes(1, 2).shape), *carry
        dq_n, *carry = _walk(listed, step, state)
        return tuple(carry), dq_n.swapaxes(1, 2).astype(q.dtype)

    ends = (_ends_block_major(x, nq, bq, h // hkv) for x in (start, end))
    xs = jnp.arange(len(q)), q, *ends, dout, lse, delta, *lists
    (dk, dv), dq = jax.lax.scan(block, (jnp.zeros(k.shape), jnp.zeros(v.shape)), xs)
    dk, dv = (_row_major(x.astype(k.dtype), b, tk, nk) for x in (dk, dv))
    return _row_major(dq, b, tq, nq), dk, dv


KERNELS = Kernels(_forward, _backward)


def _block_major(x, count, size, hkv):
    """`[B, T, H, D]` to `[B * count, Hkv, H // Hkv * size, D]`, filled with zeros."""
    b, t, _, d = x.shape
    x = jnp.pad(x, ((0, 0), (0, count * size - t), (0, 0), (0, 0)))
    x = x.reshape(b, count, size, hkv, -1, d).transpose(0, 1, 3, 4, 2, 5)
    return x.reshape(b * count, hkv, -1, d)


def _row_major(x, b, t, count):
    """What `_block_major` was made of."""
    _, hkv, _, d = x.shape
    size = -(-t // count)
    x = x.reshape(b, count, hkv, -1, size, d).transpose(0, 1, 4, 2, 3, 5)
    return x.reshape(b, count * size, -1, d)[:, :t]


def _ends_block_major(ends, count, size, group):
    # Filling repeats the last entry: no block grows by it.
    b, t = ends.shape
    ends = jnp.pad(ends, ((0, 0), (0, count * size - t)), mode="edge")
    return jnp.tile(ends.reshape(b * count, size), group)


def _exp(x: Array) -> Array:
    """Of what is 0 at most, but for rounding: of scores of 1e8 a unit in the last place is 8."""
    return jnp.exp(jnp.minimum(x, 0.0))


def _dot(spec: str, x: Array, y: Array) -> Array:
    return jnp.einsum(spec, x, y, preferred_element_type=jnp.float32)


def _take(blocks: Array, at: Array) -> Array:
    return jax.lax.dynamic_index_in_dim(blocks, at, keepdims=False)


def _add(blocks: Array, at: Array, x: Array) -> Array:
    return jax.lax.dynamic_update_index_in_dim(blocks, _take(blocks, at) + x, at, axis=0)


def _visible(start, end, key):
    return (key >= start) & (key < end)


def _lists(start, end, k_len, bq, bk):
    """Of each block of queries: its blocks of keys, how many of them are to be masked, and all."""
    return [x.reshape(-1, *x.shape[2:]) for x in block_map(start, end, k_len, bq, bk)]


def _walk(listed, step, state):
    """Runs `step(block, masked, state)` for every listed block."""
    index, partial, visited = listed
    state = jax.lax.fori_loop(0, partial, lambda t, x: step(index[t], True, x), state)
    return jax.lax.fori_loop(partial, visited, lambda t, x: step(index[t], False, x), state)

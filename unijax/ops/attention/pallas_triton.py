"""Attention as Pallas kernels for GPUs through Triton: forward, dq, and dk with dv.

FlashAttention (arXiv 2205.14135; backward: arXiv 2307.08691, algorithm 2). A program works one
block of queries (of keys, for dk and dv) and walks through the list of the blocks that hold an
allowed pair (`blocks.BlockMap`): first those to be masked, then the others, which need no mask.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Float, Int

from unijax.ops.attention.block_sizes import block_sizes
from unijax.ops.attention.blocks import block_map, transposed_block_map
from unijax.ops.attention.intervals import seen_by_intervals
from unijax.ops.attention.scores import HIDDEN, LOWEST, capped, capped_slope, dot
from unijax.ops.attention.vjp import Kernels, Options, attend

LOG2_E = math.log2(math.e)


def attention_triton(
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
    interpret: bool = False,
) -> Float[Array, "B Tq H D"]:
    """See `attention`. Blocks are powers of two, of 16 at least; so is the filled head dim."""
    sizes = block_sizes("triton", q.shape[3], q.dtype, block_q=block_q, block_k=block_k)
    options = Options(scale, soft_cap, **sizes, interpret=interpret)
    return attend(q, k, v, kv_start, kv_end, KERNELS, options)


def _forward(q, k, v, start, end, options):
    head_dim = q.shape[3]
    q, k, v = map(_fill_heads, (q, k, v))
    (b, tq, h, d), (_, tk, hkv, _) = q.shape, k.shape
    bq, bk = options.block_q, options.block_k
    blocks = block_map(start, end, tk, bq, bk)
    q, k, v = _fill(q, bq), _fill(k, bk), _fill(v, bk)
    start, end = _fill(start, bq, mode="edge"), _fill(end, bq, mode="edge")

    ends = pl.BlockSpec((None, bq), lambda i, h, b: (b, i))
    of_query = pl.BlockSpec((None, bq, None, d), lambda i, h, b: (b, i, h, 0))
    row = pl.BlockSpec((None, None, bq), lambda i, h, b: (b, h, i))
    group = h // hkv
    keys = pl.BlockSpec((None, k.shape[1], None, d), lambda i, h, b: (b, 0, h // group, 0))
    out, lse = pl.pallas_call(
        functools.partial(_forward_kernel, options=options),
        grid=(q.shape[1] // bq, h, b),
        in_specs=[*_list_specs(blocks), ends, ends, of_query, keys, keys],
        out_specs=[of_query, row],
        out_shape=[
            jax.ShapeDtypeStruct(q.shape, q.dtype),
            jax.ShapeDtypeStruct((b, h, q.shape[1]), jnp.float32),
        ],
        **_how(options, d, "forward"),
    )(*blocks, start, end, q, k, v)
    return out[:, :tq, :, :head_dim], lse[:, :, :tq]


def _backward(q, k, v, start, end, dout, lse, delta, options):
    head_dim = q.shape[3]
    q, k, v, dout = map(_fill_heads, (q, k, v, dout))
    (b, tq, h, d), (_, tk, hkv, _) = q.shape, k.shape
    bq, bk = options.block_q, options.block_k
    group = h // hkv
    blocks = block_map(start, end, tk, bq, bk)
    transposed = transposed_block_map(start, end, tk, bq, bk)
    seen_by = [_fill(x, bk, mode="edge") for x in seen_by_intervals(start, end, tk)]
    start, end = _fill(start, bq, mode="edge"), _fill(end, bq, mode="edge")
    q, dout, k, v = _fill(q, bq), _fill(dout, bq), _fill(k, bk), _fill(v, bk)
    lse, delta = (_fill(x, bq, dim=2) for x in (lse, delta))

    ends = pl.BlockSpec((None, bq), lambda i, h, b: (b, i))
    of_query = pl.BlockSpec((None, bq, None, d), lambda i, h, b: (b, i, h, 0))
    row = pl.BlockSpec((None, None, bq), lambda i, h, b: (b, h, i))
    keys = pl.BlockSpec((None, k.shape[1], None, d), lambda i, h, b: (b, 0, h // group, 0))
    dq = pl.pallas_call(
        functools.partial(_dq_kernel, options=options),
        grid=(q.shape[1] // bq, h, b),
        in_specs=[
            *_list_specs(blocks), ends, ends, of_query, of_query, row, row, keys, keys
        ],
        out_specs=of_query,
        out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
        **_how(options, d, "dq"),
    )(*blocks, start, end, q, dout, lse, delta, k, v)  # fmt: skip

    # The query heads that share a key head, whole.
    ends = pl.BlockSpec((None, bk), lambda j, h, b: (b, j))
    queries = pl.BlockSpec((None, q.shape[1], group, d), lambda j, h, b: (b, 0, h, 0))
    rows = pl.BlockSpec((None, group, q.shape[1]), lambda j, h, b: (b, h, 0))
    of_key = pl.BlockSpec((None, bk, None, d), lambda j, h, b: (b, j, h, 0))
    dk, dv = pl.pallas_call(
        functools.partial(_dkv_kernel, options=options),
        grid=(k.shape[1] // bk, hkv, b),
        in_specs=[
            *_list_specs(transposed), ends, ends, queries, queries, rows, rows, of_key, of_key
        ],
        out_specs=[of_key, of_key],
        out_shape=[jax.ShapeDtypeStruct(k.shape, k.dtype)] * 2,
        **_how(options, d, "dkv"),
    )(*transposed, *seen_by, q, dout, lse, delta, k, v)  # fmt: skip
    dq, dk, dv = dq[:, :tq], dk[:, :tk], dv[:, :tk]
    return tuple(x[..., :head_dim] for x in (dq, dk, dv))


KERNELS = Kernels(_forward, _backward)


def _how(options: Options, d: int, name: str) -> dict:
    return dict(
        name=f"interval_attention_{name}",
        interpret=options.interpret,
        compiler_params=plgpu.CompilerParams(num_warps=4 if d <= 64 else 8, num_stages=2),
    )


def _list_specs(blocks):
    """Of the list of a block of rows, its number of blocks to be masked, and of all."""
    m = blocks.index.shape[2]
    number = pl.BlockSpec((None, 1), lambda i, h, b: (b, i))
    return pl.BlockSpec((None, None, m), lambda i, h, b: (b, i, 0)), number, number


def _walk(index, partial, visited, step, state):
    """Runs `step(block, masked, state)` for every listed block."""
    partial, visited = partial[0], visited[0]
    state = jax.lax.fori_loop(0, partial, lambda t, x: step(index[t], True, x), state)
    return jax.lax.fori_loop(partial, visited, lambda t, x: step(index[t], False, x), state)


def _scores(rows, columns, start, end, first_column, masked, options):
    """Scores `[rows, columns]` times log2(e), before and after hiding.

    Row `r` is paired with the columns in `[start[r], end[r])`.
    """
    shown = dot(rows, columns, 1, 1)
    if options.soft_cap is None:
        shown *= options.scale * LOG2_E
    else:
        shown = capped(shown * options.scale, options.soft_cap) * LOG2_E
    if not masked:
        return shown, shown
    column = first_column + jax.lax.broadcasted_iota(jnp.int32, shown.shape, 1)
    visible = (column >= start[:, None]) & (column < end[:, None])
    return shown, jnp.where(visible, shown, HIDDEN)


def _slope(shown, options):
    return 1.0 if options.soft_cap is None else capped_slope(shown / LOG2_E, options.soft_cap)


def _forward_kernel(
    index, partial, visited, start_ref, end_ref, q_ref, k_ref, v_ref, out_ref, lse_ref, *, options
):
    bq, bk = options.block_q, options.block_k
    start, end, q = start_ref[...], end_ref[...], q_ref[...]

    def step(j, masked, state):
        top, total, acc = state
        keys = pl.ds(j * bk, bk)
        _, s = _scores(q, k_ref[keys, :], start, end, j * bk, masked, options)
        new_top = jnp.maximum(top, jnp.max(s, axis=1))
        p = jnp.exp2(s - new_top[:, None])
        shrink = jnp.exp2(top - new_top)
        v = v_ref[keys, :]
        acc = acc * shrink[:, None] + dot(p.astype(v.dtype), v, 1, 0)
        return new_top, total * shrink + jnp.sum(p, axis=1), acc

    state = (
        jnp.full((bq,), LOWEST, jnp.float32),
        jnp.zeros((bq,), jnp.float32),
        jnp.zeros(q.shape, jnp.float32),
    )
    top, total, acc = _walk(index, partial, visited, step, state)
    total = jnp.where(total > 0, total, 1.0)  # a query without a key: zero, not 0 / 0
    out_ref[...] = (acc / total[:, None]).astype(out_ref.dtype)
    lse_ref[...] = (top + jnp.log2(total)) * (1 / LOG2_E)


def _dq_kernel(
    index, partial, visited, start_ref, end_ref, q_ref, dout_ref, lse_ref, delta_ref, k_ref, v_ref,
    dq_ref, *, options,
):  # fmt: skip
    bk = options.block_k
    start, end, q, dout = start_ref[...], end_ref[...], q_ref[...], dout_ref[...]
    lse, delta = lse_ref[...] * LOG2_E, delta_ref[...]

    def step(j, masked, acc):
        keys = pl.ds(j * bk, bk)
        k, v = k_ref[keys, :], v_ref[keys, :]
        shown, s = _scores(q, k, start, end, j * bk, masked, options)
        p = jnp.exp2(s - lse[:, None])
        ds = p * (dot(dout, v, 1, 1) - delta[:, None]) * _slope(shown, options)
        return acc + dot(ds.astype(k.dtype), k, 1, 0)

    acc = _walk(index, partial, visited, step, jnp.zeros(q.shape, jnp.float32))
    dq_ref[...] = (acc * options.scale).astype(dq_ref.dtype)


def _dkv_kernel(
    index, partial, visited, q_start_ref, q_end_ref, q_ref, dout_ref, lse_ref, delta_ref, k_ref,
    v_ref, dk_ref, dv_ref, *, options,
):  # fmt: skip
    bq = options.block_q
    start, end, k, v = q_start_ref[...], q_end_ref[...], k_ref[...], v_ref[...]

    def member(g, state):
        def step(i, masked, state):
            dk, dv = state
            queries = pl.ds(i * bq, bq)
            q, dout = q_ref[queries, g, :], dout_ref[queries, g, :]
            lse, delta = lse_ref[g, queries] * LOG2_E, delta_ref[g, queries]
            shown, s = _scores(k, q, start, end, i * bq, masked, options)
            p = jnp.exp2(s - lse[None])
            ds = p * (dot(v, dout, 1, 1) - delta[None]) * _slope(shown, options)
            dv += dot(p.astype(dout.dtype), dout, 1, 0)
            return dk + dot(ds.astype(q.dtype), q, 1, 0), dv

        return _walk(index, partial, visited, step, state)

    zeros = jnp.zeros(k.shape, jnp.float32)
    dk, dv = jax.lax.fori_loop(0, lse_ref.shape[0], member, (zeros, zeros))
    dk_ref[...] = (dk * options.scale).astype(dk_ref.dtype)
    dv_ref[...] = dv.astype(dv_ref.dtype)


def _fill_heads(x: Array) -> Array:
    return _fill(x, pl.next_power_of_2(max(x.shape[3], 16)), dim=3)


def _fill(x: Array, block: int, dim: int = 1, **mode) -> Array:
    """Fills a dim to whole blocks."""
    return jnp.pad(x, [(0, -n % block if i == dim else 0) for i, n in enumerate(x.shape)], **mode)

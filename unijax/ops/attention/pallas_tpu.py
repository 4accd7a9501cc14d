"""Attention as Pallas kernels for TPU: forward, dq, and dk with dv, on the blocks with a pair only.

FlashAttention (arXiv 2205.14135; backward: arXiv 2307.08691, algorithm 2) whose grid is the list of
blocks that hold an allowed pair (`blocks.Steps`): its length is known on the device alone, and the
numbers of the blocks that come next are fetched ahead, so that nothing else is loaded.

Arrays are turned to `[B, H, D, T]`: with positions along the lanes, a head dim of 64, 72 or 88
wastes no lane. Scores are keys by queries, so that what is known of a query (its interval, its
maximum, its normaliser) is one row, and reductions over keys run across sublanes.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.lax import div, rem
from jaxtyping import Float, Int

from unijax.ops.attention.block_sizes import block_sizes
from unijax.ops.attention.blocks import (
    FIRST,
    FULL,
    LAST,
    PARTIAL,
    block_map,
    steps,
    transposed_block_map,
)
from unijax.ops.attention.scores import HIDDEN, LOWEST, capped, capped_slope, dot
from unijax.ops.attention.split import queries_of_device
from unijax.ops.attention.vjp import Kernels, Options, attend

LANES = 128


def attention_tpu(
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
    """See `attention`. float16, which the matrix unit lacks, is worked in float32."""
    largest = block_sizes("tpu", q.shape[3], q.dtype)
    of_device = queries_of_device(q.shape[1], k.shape[1])
    block_q = block_q or _block_size(of_device, largest["block_q"])
    block_k = block_k or _block_size(k.shape[1], largest["block_k"])
    options = Options(scale, soft_cap, block_q, block_k, interpret)
    dtype = q.dtype
    if dtype == jnp.float16:
        q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    return attend(q, k, v, kv_start, kv_end, KERNELS, options).astype(dtype)


def _block_size(length: int, largest: int) -> int:
    """As few blocks as `largest` allows, as equal as whole vectors of lanes let them be."""
    count = -(-length // largest)
    return -(-length // (count * LANES)) * LANES


def _forward(q, k, v, start, end, options):
    (b, tq, h, d), (_, tk, hkv, _) = q.shape, k.shape
    bq, bk = options.block_q, options.block_k
    nq, nk = -(-tq // bq), -(-tk // bk)
    listed = steps(block_map(start, end, tk, bq, bk))
    of_query, of_key = _specs(h // hkv, bq, bk, nq, nk)
    out, lse = pl.pallas_call(
        functools.partial(_forward_kernel, options=options, nk=nk),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(h, listed.count),
            in_specs=[of_query(None), of_query(None), of_query(d), of_key(d), of_key(d)],
            out_specs=[of_query(d), of_query(1)],
            scratch_shapes=[pltpu.VMEM(s, jnp.float32) for s in ((1, bq), (1, bq), (d, bq))],
        ),
        out_shape=[
            jax.ShapeDtypeStruct((b, h, d, nq * bq), q.dtype),
            jax.ShapeDtypeStruct((b, h, 1, nq * bq), jnp.float32),
        ],
        **_how(options, "forward", 2),
    )(
        *listed[1:], _ends(start, bq), _ends(end, bq), _turn(q, bq), _turn(k, bk), _turn(v, bk)
    )  # fmt: skip
    return _turn_back(out, tq), lse[:, :, 0, :tq]


def _backward(q, k, v, start, end, dout, lse, delta, options):
    (b, tq, h, d), (_, tk, hkv, _) = q.shape, k.shape
    bq, bk = options.block_q, options.block_k
    nq, nk = -(-tq // bq), -(-tk // bk)
    inputs = (
        _ends(start, bq), _ends(end, bq), _turn(q, bq), _turn(dout, bq),
        _row(lse, bq), _row(delta, bq), _turn(k, bk), _turn(v, bk),
    )  # fmt: skip

    listed = steps(block_map(start, end, tk, bq, bk))
    of_query, of_key = _specs(h // hkv, bq, bk, nq, nk)
    ends, rows = [of_query(None)] * 2, [of_query(d), of_query(d), of_query(1), of_query(1)]
    dq = pl.pallas_call(
        functools.partial(_dq_kernel, options=options, nk=nk),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(h, listed.count),
            in_specs=[*ends, *rows, of_key(d), of_key(d)],
            out_specs=of_query(d),
            scratch_shapes=[pltpu.VMEM((d, bq), jnp.float32)],
        ),
        out_shape=jax.ShapeDtypeStruct((b, h, d, nq * bq), q.dtype),
        **_how(options, "dq", 2),
    )(*listed[1:], *inputs)

    listed = steps(transposed_block_map(start, end, tk, bq, bk))
    of_query, of_key = _transposed_specs(h // hkv, bq, bk, nq, nk)
    ends, rows = [of_query(None)] * 2, [of_query(d), of_query(d), of_query(1), of_query(1)]
    dk, dv = pl.pallas_call(
        functools.partial(_dkv_kernel, options=options, nk=nk),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(hkv, listed.count, h // hkv),
            in_specs=[*ends, *rows, of_key(d), of_key(d)],
            out_specs=[of_key(d), of_key(d)],
            scratch_shapes=[pltpu.VMEM((d, bk), jnp.float32)] * 2,
        ),
        out_shape=[jax.ShapeDtypeStruct((b, hkv, d, nk * bk), k.dtype)] * 2,
        **_how(options, "dkv", 3),
    )(*listed[1:], *inputs)
    return _turn_back(dq, tq), _turn_back(dk, tk), _turn_back(dv, tk)


KERNELS = Kernels(_forward, _backward)


def _how(options: Options, name: str, dims: int) -> dict:
    # Heads may be split over the cores of a chip; the steps of one follow each other.
    semantics = ("parallel", *("arbitrary",) * (dims - 1))
    return dict(
        name=f"interval_attention_{name}",
        interpret=options.interpret,
        compiler_params=pltpu.CompilerParams(dimension_semantics=semantics),
    )


def _specs(group, bq, bk, nq, nk):
    """Block specs over the grid (head, step), for arrays of queries and of keys.

    Given the length of the dim before the positions; None: an array `[B, 1, T]` without heads.
    """

    def of_query(d):
        if d is None:
            return pl.BlockSpec(
                (None, 1, bq), lambda h, s, r, c, f: (div(r[s], nq), 0, rem(r[s], nq))
            )
        return pl.BlockSpec(
            (None, None, d, bq), lambda h, s, r, c, f: (div(r[s], nq), h, 0, rem(r[s], nq))
        )

    def of_key(d):
        return pl.BlockSpec(
            (None, None, d, bk),
            lambda h, s, r, c, f: (div(c[s], nk), div(h, group), 0, rem(c[s], nk)),
        )

    return of_query, of_key


def _transposed_specs(group, bq, bk, nq, nk):
    """As `_specs`, over the grid (key head, step, query head of the group)."""

    def of_query(d):
        if d is None:
            return pl.BlockSpec(
                (None, 1, bq), lambda h, s, g, r, c, f: (div(c[s], nq), 0, rem(c[s], nq))
            )
        return pl.BlockSpec(
            (None, None, d, bq),
            lambda h, s, g, r, c, f: (div(c[s], nq), h * group + g, 0, rem(c[s], nq)),
        )

    def of_key(d):
        return pl.BlockSpec(
            (None, None, d, bk), lambda h, s, g, r, c, f: (div(r[s], nk), h, 0, rem(r[s], nk))
        )

    return of_query, of_key


def _scores(q, k, start, end, key_block, masked, options):
    """Scores `[bk, bq]` before and after hiding."""
    shown = capped(dot(k, q, 0, 0) * options.scale, options.soft_cap)
    if not masked:
        return shown, shown
    key = jax.lax.broadcasted_iota(jnp.int32, shown.shape, 0) + key_block * options.block_k
    return shown, jnp.where((key >= start) & (key < end), shown, HIDDEN)


def _visit(flag, body):
    """Runs `body(masked)` as the kind of the step asks; not at all where there is no pair."""
    pl.when(flag & PARTIAL != 0)(functools.partial(body, True))
    pl.when(flag & FULL != 0)(functools.partial(body, False))


def _forward_kernel(
    row, column, flags, start, end, q, k, v, out, lse, top, total, acc, *, options, nk
):
    del row
    step = pl.program_id(1)
    flag = flags[step]

    @pl.when(flag & FIRST != 0)
    def _():
        top[...] = jnp.full(top.shape, LOWEST, jnp.float32)
        total[...] = jnp.zeros(total.shape, jnp.float32)
        acc[...] = jnp.zeros(acc.shape, jnp.float32)

    def body(masked):
        _, s = _scores(q[...], k[...], start[...], end[...], rem(column[step], nk), masked, options)
        new_top = jnp.maximum(top[...], jnp.max(s, axis=0, keepdims=True))
        p = jnp.exp(s - new_top)
        shrink = jnp.exp(top[...] - new_top)
        total[...] = total[...] * shrink + jnp.sum(p, axis=0, keepdims=True)
        acc[...] = acc[...] * shrink + dot(v[...], p.astype(v.dtype), 1, 0)
        top[...] = new_top

    _visit(flag, body)

    @pl.when(flag & LAST != 0)
    def _():
        some = jnp.where(total[...] > 0, total[...], 1.0)  # no key: zero, not 0 / 0
        out[...] = (acc[...] / some).astype(out.dtype)
        lse[...] = top[...] + jnp.log(some)


def _gradient_of_scores(refs, key_block, masked, options):
    """Probabilities and the gradient of the scores before scaling by `scale`, `[bk, bq]` both."""
    start, end, q, dout, lse, delta, k, v = refs
    shown, s = _scores(q[...], k[...], start[...], end[...], key_block, masked, options)
    p = jnp.exp(s - lse[...])
    dp = dot(v[...], dout[...], 0, 0)
    return p, p * (dp - delta[...]) * capped_slope(shown, options.soft_cap)


def _dq_kernel(row, column, flags, *refs, options, nk):
    del row
    *refs, dq, acc = refs
    step = pl.program_id(1)
    flag = flags[step]

    @pl.when(flag & FIRST != 0)
    def _():
        acc[...] = jnp.zeros(acc.shape, jnp.float32)

    def body(masked):
        k = refs[6]
        _, ds = _gradient_of_scores(refs, rem(column[step], nk), masked, options)
        acc[...] += dot(k[...], ds.astype(k.dtype), 1, 0)

    _visit(flag, body)

    @pl.when(flag & LAST != 0)
    def _():
        dq[...] = (acc[...] * options.scale).astype(dq.dtype)


def _dkv_kernel(row, column, flags, *refs, options, nk):
    del column
    *refs, dk, dv, dk_acc, dv_acc = refs
    step, member, members = pl.program_id(1), pl.program_id(2), pl.num_programs(2)
    flag = flags[step]

    @pl.when((flag & FIRST != 0) & (member == 0))
    def _():
        dk_acc[...] = jnp.zeros(dk_acc.shape, jnp.float32)
        dv_acc[...] = jnp.zeros(dv_acc.shape, jnp.float32)

    def body(masked):
        q, dout = refs[2], refs[3]
        p, ds = _gradient_of_scores(refs, rem(row[step], nk), masked, options)
        dv_acc[...] += dot(dout[...], p.astype(dout.dtype), 1, 1)
        dk_acc[...] += dot(q[...], ds.astype(q.dtype), 1, 1)

    _visit(flag, body)

    @pl.when((flag & LAST != 0) & (member == members - 1))
    def _():
        dk[...] = (dk_acc[...] * options.scale).astype(dk.dtype)
        dv[...] = dv_acc[...].astype(dv.dtype)


def _turn(x: Array, block: int) -> Array:
    """`[B, T, H, D]` to `[B, H, D, T]`, filled with zeros to whole blocks."""
    x = x.transpose(0, 2, 3, 1)
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, -x.shape[-1] % block)))


def _turn_back(x: Array, length: int) -> Array:
    return x[..., :length].transpose(0, 3, 1, 2)


def _row(x: Array, block: int) -> Array:
    """`[B, H, T]` to `[B, H, 1, T]`, filled."""
    return jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[-1] % block)))[:, :, None]


def _ends(x: Array, block: int) -> Array:
    """`[B, T]` to `[B, 1, T]`. A filling query sees what the last one sees, and adds nothing."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % block)), mode="edge")[:, None]

"""Attention as Pallas kernels for Hopper: forward, dq, and dk with dv, on its tensor cores.

FlashAttention-3 (arXiv 2407.08608, section 3.1) through Mosaic GPU: one warpgroup does nothing but
copy tiles into shared memory ahead of two that compute, each on 64 rows of a tile of 128, and whose
softmax and products take turns on the tensor cores. Which tiles are copied comes from the list of
blocks that hold an allowed pair (`blocks.BlockMap`), read where the kernel runs: first those to be
masked, then the others, which need no mask.

The backward passes follow arXiv 2307.08691, algorithm 2, as two kernels, so that every sum has a
fixed order and the result is the same at every run.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Float, Int

from unijax.ops.attention.block_sizes import block_sizes
from unijax.ops.attention.blocks import BlockMap, block_map, transposed_block_map
from unijax.ops.attention.intervals import seen_by_intervals
from unijax.ops.attention.scores import HIDDEN, LOWEST, capped, capped_slope
from unijax.ops.attention.vjp import Kernels, Options, attend

LOG2_E = math.log2(math.e)
ROWS = 64  # of one warpgroup: the rows of a warpgroup's matrix product
WORKERS = 2  # warpgroups that compute
TILE = WORKERS * ROWS  # queries (keys, for dk and dv) of a program
SLOTS = 2  # tiles in flight
CACHE = 32 * 2**20  # bytes of the 50 MiB of H100's L2 that are counted on
WGMMA = plgpu.Layout.WGMMA
PER_ROW, PER_COLUMN = WGMMA.reduce(1), WGMMA.reduce(0)


def attention_mosaic_gpu(
    q: Float[Array, "B Tq H D"],
    k: Float[Array, "B Tk Hkv D"],
    v: Float[Array, "B Tk Hkv D"],
    kv_start: Int[Array, "B Tq"],
    kv_end: Int[Array, "B Tq"],
    *,
    scale: float,
    soft_cap: float | None = None,
    block: int | None = None,
    block_backward: int | None = None,
    interpret: object = False,
) -> Float[Array, "B Tq H D"]:
    """See `attention`. Of bfloat16 and float16; the head dim is filled to a multiple of 64.

    Args:
      block: keys (of the backward passes, `block_backward` keys or queries) that meet the 128
        queries (keys) of a program at one time: multiples of 64.
    """
    given = dict(block=block, block_backward=block_backward)
    sizes = block_sizes("mosaic_gpu", q.shape[3], q.dtype, **given)
    options = Options(scale, soft_cap, sizes["block"], sizes["block_backward"], interpret)
    return attend(q, k, v, kv_start, kv_end, KERNELS, options)


def _forward(q, k, v, start, end, options):
    head_dim = q.shape[3]
    q, k, v = (_fill(x, 64, dim=3) for x in (q, k, v))
    (b, tq, h, d), (_, tk, hkv, _) = q.shape, k.shape
    bk = options.block_q
    blocks = block_map(start, end, tk, TILE, bk)
    q, k, v = _fill(q, TILE), _fill(k, bk), _fill(v, bk)
    start, end = _fill(start, TILE, mode="edge"), _fill(end, TILE, mode="edge")
    out, lse = plgpu.kernel(
        functools.partial(_forward_kernel, options=options, group=h // hkv),
        out_type=[
            jax.ShapeDtypeStruct(q.shape, q.dtype),
            jax.ShapeDtypeStruct((b, h, q.shape[1]), jnp.float32),
        ],
        scratch_types=dict(
            q_tile=_tile((WORKERS, ROWS, d), q.dtype),
            k_tiles=_tile((SLOTS, bk, d), q.dtype),
            v_tiles=_tile((SLOTS, bk, d), q.dtype),
            lse_tile=plgpu.SMEM((WORKERS, ROWS), jnp.float32),
            q_ready=plgpu.Barrier(num_barriers=WORKERS),
            k_ready=plgpu.Barrier(num_barriers=SLOTS),
            v_ready=plgpu.Barrier(num_barriers=SLOTS),
            k_done=plgpu.Barrier(num_arrivals=WORKERS, num_barriers=SLOTS),
            v_done=plgpu.Barrier(num_arrivals=WORKERS, num_barriers=SLOTS),
            turn=plgpu.Barrier(num_arrivals=WORKERS),
        ),
        **_how(h, q.shape[1] // TILE, k, options, "forward"),
    )(*_listed(blocks), start, end, q, k, v)
    return out[:, :tq, :, :head_dim], lse[:, :, :tq]


def _backward(q, k, v, start, end, dout, lse, delta, options):
    head_dim = q.shape[3]
    q, k, v, dout = (_fill(x, 64, dim=3) for x in (q, k, v, dout))
    (_, tq, h, d), (_, tk, hkv, _) = q.shape, k.shape
    block = options.block_k
    blocks = block_map(start, end, tk, TILE, block)
    transposed = transposed_block_map(start, end, tk, block, TILE)
    seen_by = [_fill(x, TILE, mode="edge") for x in seen_by_intervals(start, end, tk)]
    start, end = _fill(start, TILE, mode="edge"), _fill(end, TILE, mode="edge")
    q, dout, k, v = (_fill(x, TILE) for x in (q, dout, k, v))
    lse, delta = _fill(lse * LOG2_E, TILE, dim=2), _fill(delta, TILE, dim=2)
    barriers = dict(
        mine_ready=plgpu.Barrier(num_arrivals=2, num_barriers=WORKERS),
        left_done=plgpu.Barrier(num_arrivals=WORKERS, num_barriers=SLOTS),
        right_done=plgpu.Barrier(num_arrivals=WORKERS, num_barriers=SLOTS),
    )
    mine, theirs = _tile((WORKERS, ROWS, d), q.dtype), _tile((SLOTS, block, d), q.dtype)
    dq = plgpu.kernel(
        functools.partial(_dq_kernel, options=options, group=h // hkv),
        out_type=jax.ShapeDtypeStruct(q.shape, q.dtype),
        scratch_types=dict(
            q_tile=mine, dout_tile=mine, k_tiles=theirs, v_tiles=theirs,
            left_ready=plgpu.Barrier(num_barriers=SLOTS),
            right_ready=plgpu.Barrier(num_barriers=SLOTS),
            **barriers,
        ),
        **_how(h, q.shape[1] // TILE, k, options, "dq"),
    )(*_listed(blocks), start, end, q, dout, lse, delta, k, v)  # fmt: skip
    row = plgpu.SMEM((SLOTS, block), jnp.float32)
    dk, dv = plgpu.kernel(
        functools.partial(_dkv_kernel, options=options, group=h // hkv),
        out_type=[jax.ShapeDtypeStruct(k.shape, k.dtype)] * 2,
        scratch_types=dict(
            k_tile=mine, v_tile=mine, q_tiles=theirs, dout_tiles=theirs, lse_rows=row,
            delta_rows=row,
            left_ready=plgpu.Barrier(num_arrivals=2, num_barriers=SLOTS),
            right_ready=plgpu.Barrier(num_arrivals=2, num_barriers=SLOTS),
            **barriers,
        ),
        **_how(hkv, k.shape[1] // TILE, q, options, "dkv"),
    )(*_listed(transposed), *seen_by, q, dout, lse, delta, k, v)  # fmt: skip
    dq, dk, dv = dq[:, :tq], dk[:, :tk], dv[:, :tk]
    return tuple(x[..., :head_dim] for x in (dq, dk, dv))


KERNELS = Kernels(_forward, _backward)


def _how(heads: int, tiles: int, walked: Array, options: Options, name: str) -> dict:
    """Programs for every head and tile of the rows of `walked`, along which they walk.

    Programs that start together differ in the last axes: they are of one tile, in all rows and in
    as many heads as the cache holds keys and values of; the next tile's follow.
    """
    rows, length, _, d = walked.shape
    fit = CACHE // (2 * rows * length * d * walked.dtype.itemsize)
    section = max(n for n in range(1, heads + 1) if heads % n == 0 and n <= max(fit, 1))
    return dict(
        kernel_name=f"interval_attention_{name}",
        grid=(heads // section, tiles, section, rows),
        grid_names=("section", "tile", "head", "batch"),
        num_threads=WORKERS + 1,
        thread_name="warpgroup",
        # Lowered alike by every JAX: the default is another from 0.11 on.
        compiler_params=plgpu.CompilerParams(
            approx_math=True, lowering_semantics=plgpu.LoweringSemantics.Lane
        ),
        interpret=options.interpret,
    )


def _tile(shape, dtype):
    """Shared memory laid out as the tensor cores read it."""
    transforms = plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128)
    return plgpu.SMEM(shape, dtype, transforms=transforms)


def _roles(compute, copy):
    worker = lax.axis_index("warpgroup")

    @pl.when(worker < WORKERS)
    def _():
        plgpu.set_max_registers(232, action="increase")
        compute(worker)

    @pl.when(worker == WORKERS)
    def _():
        plgpu.set_max_registers(40, action="decrease")
        copy()


def _listed(blocks: BlockMap) -> tuple[Array, ...]:
    """The lists, and before them the tiles in the order in which they are worked: the most blocks
    first, so that none with many is begun when the other processors have nothing left.
    """
    order = jnp.argsort(-blocks.visited, axis=1).astype(jnp.int32)
    return order, *blocks


def _here(order):
    """Batch row, head and tile of this program."""
    b, section = lax.axis_index("batch"), lax.axis_index("section")
    head = section * lax.axis_size("head") + lax.axis_index("head")
    return b, head, order[b, lax.axis_index("tile")]


def _slot(step):
    return lax.rem(step, jnp.int32(SLOTS))


def _copy_in_turn(count, copies):
    """For steps 0, 1, ...: `copy(step, slot)` for each `(copy, done)`, once the slot is free."""

    @pl.loop(0, count)
    def _(step):
        slot = _slot(step)
        for copy, done in copies:
            pl.when(step >= SLOTS)(functools.partial(plgpu.barrier_wait, done.at[slot]))
            copy(step, slot)

    # The last round is awaited too: no barrier is left behind with an arrival unseen.
    @pl.loop(jnp.maximum(count - SLOTS, 0), count)
    def _(step):
        for _, done in copies:
            plgpu.barrier_wait(done.at[_slot(step)])


def _load(part, layout, optimized=True):
    """Of an array's part, `ref.at[...]`, in registers."""
    # JAX 0.10 wants an index beside it, which is optional in 0.11 and gone in 0.12.
    index = ((),) if jax.__version_info__ < (0, 11) else ()
    return plgpu.load(part, *index, layout=layout, optimized=optimized)


def _per_row(ref, b, at):
    return _load(ref.at[b, pl.ds(at, ROWS)], PER_ROW, optimized=False)


def _zeros(d):
    return plgpu.layout_cast(jnp.zeros((ROWS, d), jnp.float32), WGMMA)


def _across(x, shape):
    """A value for each row, along its columns."""
    return lax.broadcast_in_dim(x, shape, [0])


def _along(x, shape):
    """A value for each column, along its rows."""
    return lax.broadcast_in_dim(x, shape, [1])


def _finish(score, options):
    """Products to scores times log2(e)."""
    if options.soft_cap is None:
        return score * (options.scale * LOG2_E)
    return capped(score * options.scale, options.soft_cap) * LOG2_E


def _slope(shown, options):
    return 1.0 if options.soft_cap is None else capped_slope(shown * (1 / LOG2_E), options.soft_cap)


def _hide(score, start, end, first_column):
    """Row `r` is paired with the columns in `[start[r], end[r])`."""
    column = plgpu.broadcasted_iota(jnp.int32, score.shape, 1, layout=WGMMA) + first_column
    visible = (column >= _across(start, score.shape)) & (column < _across(end, score.shape))
    return jnp.where(visible, score, HIDDEN)


def _forward_kernel(
    order, index, partial, visited, start, end, q, k, v, out, lse,
    q_tile, k_tiles, v_tiles, lse_tile, q_ready, k_ready, v_ready, k_done, v_done, turn,
    *, options, group,
):  # fmt: skip
    """A step multiplies queries with its keys, and the probabilities of the step before with their
    values, at one go: the second product runs while the softmax of the first is taken
    (arXiv 2407.08608, algorithm 2), and the other warpgroup's products too.
    """
    b, head, tile = _here(order)
    bk, d = k_tiles.shape[1:]
    count = visited[b, tile]

    def take_turn():
        plgpu.barrier_arrive(turn)
        plgpu.barrier_wait(turn)

    def compute(worker):
        q_tile_, lse_tile_ = q_tile.at[worker], lse_tile.at[worker]
        first = tile * TILE + worker * ROWS
        here = b, pl.ds(first, ROWS), head
        plgpu.copy_gmem_to_smem(q.at[here], q_tile_, q_ready.at[worker])
        start_, end_ = _per_row(start, b, first), _per_row(end, b, first)
        plgpu.barrier_wait(q_ready.at[worker])

        def softmax(s, t, top, masked):
            s = _finish(s, options)
            if masked:
                s = _hide(s, start_, end_, index[b, tile, t] * bk)
            new_top = jnp.maximum(top, s.max(axis=1))
            return jnp.exp2(s - _across(new_top, s.shape)), new_top, jnp.exp2(top - new_top)

        def begin():
            def scores(s_ref):
                plgpu.wgmma(s_ref, q_tile_, k_tiles.at[0].transpose((1, 0)))
                take_turn()
                return s_ref[...]

            plgpu.barrier_wait(k_ready.at[0])
            s = pl.run_scoped(scores, plgpu.ACC((ROWS, bk), jnp.float32))
            plgpu.barrier_arrive(k_done.at[0])
            lowest = plgpu.layout_cast(jnp.full((ROWS,), LOWEST, jnp.float32), PER_ROW)
            p, top, _ = softmax(s, 0, lowest, masked=True)
            state = lax.optimization_barrier((top, p.sum(axis=1), p.astype(v_tiles.dtype)))
            take_turn()
            return _zeros(d), *state

        def step(t, state, masked):
            acc, top, total, p16 = state
            slot, slot_before = _slot(t), _slot(t - 1)
            plgpu.barrier_wait(k_ready.at[slot])
            plgpu.barrier_wait(v_ready.at[slot_before])

            def products(s_ref, acc_ref):
                acc_ref[...] = acc
                plgpu.wgmma(s_ref, q_tile_, k_tiles.at[slot].transpose((1, 0)))
                plgpu.wgmma(acc_ref, p16, v_tiles.at[slot_before])
                take_turn()  # the tensor cores are the other's while this one does its softmax
                s = plgpu.wgmma_accumulator_load(s_ref, wait_n=1)
                plgpu.barrier_arrive(k_done.at[slot])
                p, new_top, shrink = softmax(s, t, top, masked)
                new_total = total * shrink + p.sum(axis=1)
                return acc_ref[...], p, new_top, new_total, shrink

            acc, p, top, total, shrink = pl.run_scoped(
                products, plgpu.ACC((ROWS, bk), jnp.float32), plgpu.ACC((ROWS, d), jnp.float32)
            )
            plgpu.barrier_arrive(v_done.at[slot_before])
            acc *= _across(shrink, acc.shape)
            state = lax.optimization_barrier((acc, top, total, p.astype(v_tiles.dtype)))
            take_turn()
            return state

        @pl.when(count > 0)
        def _():
            pl.when(worker == 1)(take_turn)
            to_mask = partial[b, tile]
            state = lax.fori_loop(1, to_mask, functools.partial(step, masked=True), begin())
            unmasked = functools.partial(step, masked=False)
            state = lax.fori_loop(jnp.maximum(to_mask, 1), count, unmasked, state)
            acc, top, total, p16 = state
            pl.when(worker == 0)(take_turn)
            slot = _slot(count - 1)
            plgpu.barrier_wait(v_ready.at[slot])
            acc = _add_product(acc, p16, v_tiles.at[slot])
            plgpu.barrier_arrive(v_done.at[slot])
            total = jnp.where(total > 0, total, 1.0)  # a query without a key: zero, not 0 / 0
            q_tile_[...] = (acc / _across(total, acc.shape)).astype(q_tile.dtype)
            lse_tile_[...] = top * (1 / LOG2_E) + jnp.log(total)

        @pl.when(count == 0)
        def _():
            q_tile_[...] = _zeros(d).astype(q_tile.dtype)
            lowest = jnp.full((ROWS,), LOWEST / LOG2_E, jnp.float32)
            lse_tile_[...] = plgpu.layout_cast(lowest, PER_ROW)

        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(q_tile_, out.at[here])
        plgpu.copy_smem_to_gmem(lse_tile_, lse.at[b, head, pl.ds(first, ROWS)])
        plgpu.wait_smem_to_gmem(0)

    def copy():
        def tiles(source, target, ready):
            def at(t, slot):
                keys = b, pl.ds(index[b, tile, t] * bk, bk), lax.div(head, jnp.int32(group))
                plgpu.copy_gmem_to_smem(source.at[keys], target.at[slot], ready.at[slot])

            return at

        _copy_in_turn(
            count, [(tiles(k, k_tiles, k_ready), k_done), (tiles(v, v_tiles, v_ready), v_done)]
        )

    _roles(compute, copy)


def _dq_kernel(
    order, index, partial, visited, start, end, q, dout, lse, delta, k, v, dq,
    q_tile, dout_tile, k_tiles, v_tiles, left_ready, right_ready, mine_ready, left_done, right_done,
    *, options, group,
):  # fmt: skip
    b, head, tile = _here(order)
    bk, d = k_tiles.shape[1:]
    count = visited[b, tile]

    def compute(worker):
        q_tile_, dout_tile_ = q_tile.at[worker], dout_tile.at[worker]
        first = tile * TILE + worker * ROWS
        here = b, pl.ds(first, ROWS), head
        plgpu.copy_gmem_to_smem(q.at[here], q_tile_, mine_ready.at[worker])
        plgpu.copy_gmem_to_smem(dout.at[here], dout_tile_, mine_ready.at[worker])
        start_, end_ = _per_row(start, b, first), _per_row(end, b, first)
        lse_, delta_ = _per_row(lse.at[b], head, first), _per_row(delta.at[b], head, first)
        plgpu.barrier_wait(mine_ready.at[worker])

        def step(t, acc, masked):
            slot = _slot(t)
            shape = ROWS, bk
            plgpu.barrier_wait(left_ready.at[slot])
            plgpu.barrier_wait(right_ready.at[slot])

            def gradient(s_ref, dp_ref):
                plgpu.wgmma(s_ref, q_tile_, k_tiles.at[slot].transpose((1, 0)))
                plgpu.wgmma(dp_ref, dout_tile_, v_tiles.at[slot].transpose((1, 0)))
                shown = _finish(plgpu.wgmma_accumulator_load(s_ref, wait_n=1), options)
                s = _hide(shown, start_, end_, index[b, tile, t] * bk) if masked else shown
                weight = jnp.exp2(s - _across(lse_, shape)) * _slope(shown, options)
                return (weight * (dp_ref[...] - _across(delta_, shape))).astype(k_tiles.dtype)

            block = plgpu.ACC(shape, jnp.float32)
            ds = pl.run_scoped(gradient, block, block)
            plgpu.barrier_arrive(right_done.at[slot])
            acc = _add_product(acc, ds, k_tiles.at[slot])
            plgpu.barrier_arrive(left_done.at[slot])
            return acc

        to_mask = partial[b, tile]
        acc = lax.fori_loop(0, to_mask, functools.partial(step, masked=True), _zeros(d))
        acc = lax.fori_loop(to_mask, count, functools.partial(step, masked=False), acc)
        q_tile_[...] = (acc * options.scale).astype(q_tile.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(q_tile_, dq.at[here])
        plgpu.wait_smem_to_gmem(0)

    def copy():
        def tiles(source, target, ready):
            def at(t, slot):
                keys = b, pl.ds(index[b, tile, t] * bk, bk), lax.div(head, jnp.int32(group))
                plgpu.copy_gmem_to_smem(source.at[keys], target.at[slot], ready.at[slot])

            return at

        _copy_in_turn(
            count,
            [
                (tiles(k, k_tiles, left_ready), left_done),
                (tiles(v, v_tiles, right_ready), right_done),
            ],
        )

    _roles(compute, copy)


def _dkv_kernel(
    order, index, partial, visited, q_start, q_end, q, dout, lse, delta, k, v, dk, dv,
    k_tile, v_tile, q_tiles, dout_tiles, lse_rows, delta_rows, left_ready, right_ready, mine_ready,
    left_done, right_done,
    *, options, group,
):  # fmt: skip
    """Scores are keys by queries here. The query heads of a group follow each other."""
    b, head, tile = _here(order)
    bq, d = q_tiles.shape[1:]
    count = visited[b, tile]

    def compute(worker):
        k_tile_, v_tile_ = k_tile.at[worker], v_tile.at[worker]
        first = tile * TILE + worker * ROWS
        here = b, pl.ds(first, ROWS), head
        plgpu.copy_gmem_to_smem(k.at[here], k_tile_, mine_ready.at[worker])
        plgpu.copy_gmem_to_smem(v.at[here], v_tile_, mine_ready.at[worker])
        start_, end_ = _per_row(q_start, b, first), _per_row(q_end, b, first)
        plgpu.barrier_wait(mine_ready.at[worker])

        def step(t, state, masked, before):
            dk_acc, dv_acc = state
            slot = _slot(before + t)
            shape = ROWS, bq
            plgpu.barrier_wait(left_ready.at[slot])
            s = _product(k_tile_, q_tiles.at[slot].transpose((1, 0)), shape)
            shown = _finish(s, options)
            s = _hide(shown, start_, end_, index[b, tile, t] * bq) if masked else shown
            p = jnp.exp2(s - _along(_load(lse_rows.at[slot], PER_COLUMN), shape))
            plgpu.barrier_wait(right_ready.at[slot])

            def products(refs):
                dv_ref, dp_ref = refs
                plgpu.wgmma(dv_ref, p.astype(q_tiles.dtype), dout_tiles.at[slot])
                plgpu.wgmma(dp_ref, v_tile_, dout_tiles.at[slot].transpose((1, 0)))

            dp = plgpu.layout_cast(jnp.zeros(shape, jnp.float32), WGMMA)
            dv_acc, dp = pl.run_state(products)((plgpu.ACC.init(dv_acc), plgpu.ACC.init(dp)))
            delta_ = _along(_load(delta_rows.at[slot], PER_COLUMN), shape)
            plgpu.barrier_arrive(right_done.at[slot])
            ds = (p * (dp - delta_) * _slope(shown, options)).astype(q_tiles.dtype)
            dk_acc = pl.run_state(lambda ref: plgpu.wgmma(ref, ds, q_tiles.at[slot]))(
                plgpu.ACC.init(dk_acc)
            )
            plgpu.barrier_arrive(left_done.at[slot])
            return dk_acc, dv_acc

        def member(g, state):
            of_group = functools.partial(step, before=g * count)
            to_mask = partial[b, tile]
            state = lax.fori_loop(0, to_mask, functools.partial(of_group, masked=True), state)
            return lax.fori_loop(to_mask, count, functools.partial(of_group, masked=False), state)

        dk_acc, dv_acc = lax.fori_loop(0, group, member, (_zeros(d), _zeros(d)))
        k_tile_[...] = (dk_acc * options.scale).astype(k_tile.dtype)
        v_tile_[...] = dv_acc.astype(v_tile.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(k_tile_, dk.at[here])
        plgpu.copy_smem_to_gmem(v_tile_, dv.at[here])
        plgpu.wait_smem_to_gmem(0)

    def copy():
        def tiles(source, target, row_source, row_target, ready):
            def at(t, slot):
                member = lax.div(t, count)
                q_head = head * group + member
                queries = pl.ds(index[b, tile, t - member * count] * bq, bq)
                plgpu.copy_gmem_to_smem(
                    source.at[b, queries, q_head], target.at[slot], ready.at[slot]
                )
                plgpu.copy_gmem_to_smem(
                    row_source.at[b, q_head, queries], row_target.at[slot], ready.at[slot]
                )

            return at

        _copy_in_turn(
            count * group,
            [
                (tiles(q, q_tiles, lse, lse_rows, left_ready), left_done),
                (tiles(dout, dout_tiles, delta, delta_rows, right_ready), right_done),
            ],
        )

    _roles(compute, copy)


def _add_product(acc, x, y):
    return pl.run_state(lambda acc_ref: plgpu.wgmma(acc_ref, x, y))(plgpu.ACC.init(acc))


def _product(x, y, shape):
    def product(acc_ref):
        plgpu.wgmma(acc_ref, x, y)
        return acc_ref[...]

    return pl.run_scoped(product, plgpu.ACC(shape, jnp.float32))


def _fill(x: Array, block: int, dim: int = 1, **mode) -> Array:
    """Fills a dim to whole blocks."""
    return jnp.pad(x, [(0, -n % block if i == dim else 0) for i, n in enumerate(x.shape)], **mode)

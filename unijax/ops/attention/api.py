"""The one attention op of every transformer here."""

import functools
import logging
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from unijax.core.errors import UserError
from unijax.ops.attention.arguments import check_arguments, check_options
from unijax.ops.attention.block_sizes import block_sizes, target
from unijax.ops.attention.chunked import attention_chunked
from unijax.ops.attention.pallas_mosaic_gpu import attention_mosaic_gpu
from unijax.ops.attention.pallas_tpu import attention_tpu
from unijax.ops.attention.pallas_triton import attention_triton
from unijax.ops.attention.reference import attention_reference

IMPLEMENTATIONS = {
    "reference": attention_reference,
    "chunked": attention_chunked,
    "tpu": attention_tpu,
    "mosaic_gpu": attention_mosaic_gpu,
    "triton": attention_triton,
}
LARGEST_HEAD_DIM = 128  # that the GPU kernels have registers for
HOPPER = ("H100", "H200", "H800", "H20", "GH200")
HALVES = (jnp.bfloat16, jnp.float16)
LOG = logging.getLogger(__name__)


def attention(
    q: Array,
    k: Array,
    v: Array,
    kv_start: Array,
    kv_end: Array,
    *,
    scale: float | None = None,
    soft_cap: float | None = None,
    implementation: str | None = None,
    **options: Any,
) -> Array:
    """Softmax attention in which query `i` sees the keys in `[kv_start[i], kv_end[i])`.

    Scores and softmax are float32 whatever the inputs are. Queries and keys may differ in length,
    and `H` may be a multiple of `Hkv`: head `h` reads key/value head `h // (H // Hkv)`. A query
    without a visible key yields zeros and passes no gradient. Any length may be zero.

    Where the mesh of the context (`core.mesh`) has several devices, each works the rows, heads and
    queries that it holds.

    Args:
      q: `[B, Tq, H, D]`, float32, bfloat16 or float16.
      k, v: `[B, Tk, Hkv, D]`, of the same dtype.
      kv_start, kv_end: integers `[B, Tq]`, neither ever decreasing along a row. That is checked
        outside of traced programs (`intervals.check_intervals`); inside, ends beyond the keys are
        taken back to them.
      scale: of the scores, positive; `D ** -0.5` if None.
      soft_cap: if given, scores become `soft_cap * tanh(score / soft_cap)` after scaling.
      implementation: a key of `IMPLEMENTATIONS`, which runs or raises; None lets
        `select_implementation` choose, and the choice is logged once for each kind of call.
      **options: of the implementation: sizes of blocks (`block_sizes.json`), `interpret`.

    Returns:
      Same shape and dtype as `q`.

    Raises:
      UserError: if the arguments do not fit together, or the named implementation is unknown or
        cannot run here.
    """
    check_arguments(q, k, v, kv_start, kv_end, scale, soft_cap)
    of = q.shape[1], k.shape[1], q.shape[3], q.dtype
    if implementation is None:
        implementation = select_implementation(*of)
        _say(implementation, *of, target()[1])
    elif not isinstance(implementation, str) or implementation not in IMPLEMENTATIONS:
        raise UserError(
            f"attention {implementation=}", "an unknown name",
            f"one of {sorted(IMPLEMENTATIONS)}", "Correct the name, or leave the choice by None.",
        )  # fmt: skip
    else:
        _check_runs(implementation, *of[2:], interpreted=bool(options.get("interpret")))
    if options:
        check_options(implementation, IMPLEMENTATIONS[implementation], options)
    if not (q.size and k.size):
        return jnp.zeros(q.shape, q.dtype)
    ends = (_within(x, k.shape[1]) for x in (kv_start, kv_end))
    scale = q.shape[3] ** -0.5 if scale is None else scale
    cap = None if soft_cap is None else float(soft_cap)
    fn = IMPLEMENTATIONS[implementation]
    return fn(q, k, v, *ends, scale=float(scale), soft_cap=cap, **options)


def _within(ends: Array, keys: int) -> Array:
    """As int32, of any integers: what they do not hold would come back as another place."""
    most = min(keys, int(jnp.iinfo(ends.dtype).max))
    return jnp.clip(ends, 0, most).astype(jnp.int32)


def select_implementation(
    q_len: int, k_len: int, head_dim: int = 64, dtype: DTypeLike = jnp.float32
) -> str:
    """The implementation that None stands for on the device that programs are now traced for.

    A few queries against a cache are quickest at once, and have no square of scores to save. For
    more, the kernels of the device where it has some: on GPUs those of Mosaic on Hopper and of
    Triton elsewhere, in 16 bits and up to `LARGEST_HEAD_DIM`. Otherwise blocks in plain XLA, which
    on CPU win wherever there is more than one (bench/attention_chunked.py).
    """
    platform, kind = target()
    if q_len <= 8:
        return "reference"
    if platform == "tpu":
        return "tpu"
    if platform == "gpu" and head_dim <= LARGEST_HEAD_DIM and jnp.dtype(dtype) in HALVES:
        return "mosaic_gpu" if _is_hopper(kind) else "triton"
    block = block_sizes("chunked", head_dim, dtype)["block_k"]
    return "reference" if k_len < block else "chunked"


@functools.cache
def _say(implementation: str, q_len: int, k_len: int, head_dim: int, dtype: Any, device: str):
    of = f"{q_len} queries, {k_len} keys, head dim {head_dim}, {dtype}, on {device}"
    LOG.info("attention of %s: %s", of, implementation)


def _is_hopper(kind: str) -> bool:
    return any(name in kind.split() for name in HOPPER)


def _check_runs(implementation: str, head_dim: int, dtype: DTypeLike, interpreted: bool):
    platform, kind = target()
    needs = {"tpu": "tpu", "mosaic_gpu": "gpu", "triton": "gpu"}.get(implementation)
    found = expected = None
    if needs not in (None, platform) and not interpreted:
        found, expected = f"a {platform} ({kind})", f"a {needs}"
    elif implementation == "mosaic_gpu" and not _is_hopper(kind) and not interpreted:
        found, expected = kind, f"a GPU of the Hopper family ({', '.join(HOPPER)})"
    elif implementation == "mosaic_gpu" and jnp.dtype(dtype) not in HALVES:
        found, expected = str(jnp.dtype(dtype)), "bfloat16 or float16"
    elif needs == "gpu" and head_dim > LARGEST_HEAD_DIM:
        found, expected = f"a head dim of {head_dim}", f"at most {LARGEST_HEAD_DIM}"
    if found is not None:
        raise UserError(
            f"attention {implementation=}", found, expected,
            "Leave the choice to implementation=None, or name another.",
        )  # fmt: skip

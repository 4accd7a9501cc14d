"""What every implementation of attention may count on, checked once where arguments come in.

Kernels would read a length of one argument and apply it to all: what does not fit gives numbers,
and wrong ones.
"""

import inspect
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from unijax.core.errors import UserError
from unijax.ops.attention.intervals import check_intervals

DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)
# Of a scale and a cap: each and its inverse are float32 numbers, and neither is flushed to zero.
SMALLEST, LARGEST = 1e-30, 1e30


def check_arguments(
    q: Array,
    k: Array,
    v: Array,
    kv_start: Array,
    kv_end: Array,
    scale: float | None,
    soft_cap: float | None,
) -> None:
    """Raises UserError where the arguments of `attention` do not fit together.

    What intervals say is looked at where it is known: not while tracing.
    """
    arrays = {"q": q, "k": k, "v": v, "kv_start": kv_start, "kv_end": kv_end}
    for name, x in arrays.items():
        if not isinstance(x, jax.Array | np.ndarray):
            _refuse(name, f"a {type(x).__name__}", "an array", "Make one of it: jnp.asarray.")
    _check_shapes(q, k, v)
    dtypes = [x.dtype for x in (q, k, v)]
    if len(set(dtypes)) > 1 or dtypes[0] not in DTYPES:
        _refuse(
            "q, k and v", "dtypes " + ", ".join(map(str, dtypes)),
            "one of float32, bfloat16 or float16 for all", "Cast them to the dtype of the queries.",
        )  # fmt: skip
    for name, ends in (("kv_start", kv_start), ("kv_end", kv_end)):
        if ends.shape != q.shape[:2] or not jnp.issubdtype(ends.dtype, jnp.integer):
            _refuse(
                name, f"{ends.dtype} of shape {ends.shape}",
                f"integers of shape {q.shape[:2]}, one for each query", "Correct the intervals.",
            )  # fmt: skip
    for name, number in (("scale", scale), ("soft_cap", soft_cap)):
        if number is not None and not _is_usable(number):
            _refuse(
                name, repr(number), f"a positive number, {SMALLEST} to {LARGEST}, or None",
                "Correct it; an array cannot be one.",
            )  # fmt: skip
    if _is_known(kv_start) and _is_known(kv_end):
        check_intervals(np.asarray(kv_start), np.asarray(kv_end), k.shape[1])


def check_options(implementation: str, fn: Callable, options: Mapping[str, Any]) -> None:
    """Raises UserError for options that `fn` does not have, and sizes of blocks that are none."""
    known = set(inspect.signature(fn).parameters) - _OF_ALL
    for name, value in options.items():
        if name not in known:
            _refuse(
                f"option {name}", f"none of {implementation}'s", f"one of {sorted(known)}",
                "Correct the name, or leave it out.",
            )  # fmt: skip
        size = isinstance(value, numbers.Integral) and not isinstance(value, bool) and value > 0
        if name != "interpret" and value is not None and not size:
            _refuse(name, repr(value), "a whole number of positions, 1 or more", "Correct it.")


_OF_ALL = {"q", "k", "v", "kv_start", "kv_end", "scale", "soft_cap"}


def _check_shapes(q, k, v):
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != 4:
            _refuse(name, f"shape {x.shape}", "[rows, positions, heads, head dim]", "Reshape it.")
    if k.shape != v.shape:
        _refuse(
            "k and v", f"shapes {k.shape} and {v.shape}", "the same shape",
            "Every key needs a value.",
        )  # fmt: skip
    (rows, _, heads, dim), (k_rows, _, k_heads, k_dim) = q.shape, k.shape
    if (rows, dim) != (k_rows, k_dim):
        _refuse(
            "q and k", f"{rows} rows of head dim {dim}, and {k_rows} of {k_dim}",
            "the same rows and head dim", "Correct the shapes.",
        )  # fmt: skip
    if heads % k_heads if k_heads else heads:
        _refuse(
            "q and k", f"{heads} query heads and {k_heads} key heads", "a multiple",
            "Correct the numbers of heads.",
        )  # fmt: skip


def _is_usable(number) -> bool:
    # A NaN is not between any two numbers.
    real = isinstance(number, numbers.Real) and not isinstance(number, bool | np.bool_)
    return real and SMALLEST <= number <= LARGEST


def _is_known(x) -> bool:
    if isinstance(x, np.ndarray):
        return True
    return not isinstance(x, jax.core.Tracer) and x.is_fully_addressable


def _refuse(what: str, found: str, expected: str, fix: str):
    raise UserError(f"attention, {what}", found, expected, fix)

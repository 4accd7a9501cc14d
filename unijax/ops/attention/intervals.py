"""Which keys a query sees, as intervals `[kv_start, kv_end)` over the keys.

Both ends never decrease along a row, so the queries that see a key are an interval too, and a block
of queries needs one contiguous range of keys.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from unijax.core.batch import Kind
from unijax.core.errors import UserError

AnyArray = Array | np.ndarray


def packed_intervals(
    segment: Int[AnyArray, "B T"],
    kind: Int[AnyArray, "B T"],
    image: Int[AnyArray, "B T"],
    whole_span_kinds: tuple[int, ...] = (),
) -> tuple[Int[AnyArray, "B T"], Int[AnyArray, "B T"]]:
    """Intervals of packed rows: causal within a document, nothing seen across documents.

    Of NumPy arrays they are made on the host.

    Args:
      segment: 1, 2, ... for the documents of a row, each contiguous; 0 on padding.
      kind: `core.batch.Kind` of every position. Padding sees nothing.
      image: 1, 2, ... for the image spans of a row; 0 outside.
      whole_span_kinds: kinds whose positions see their whole image span, also what comes after them
        in it: `kv_end = max(q + 1, end of the span)`.

    Returns:
      `kv_start, kv_end`, int32.
    """
    xp = np if isinstance(segment, np.ndarray) else jnp
    here = xp.arange(segment.shape[1], dtype=xp.int32)
    pad = kind == Kind.PAD
    is_first = xp.diff(segment, axis=1, prepend=segment[:, :1] - 1) != 0
    start = _largest_so_far(xp.where(is_first, here, 0))
    end = xp.broadcast_to(here + 1, segment.shape)
    if whole_span_kinds:
        whole = xp.isin(kind, xp.asarray(whole_span_kinds)) & (image > 0)
        is_last = xp.diff(image, axis=1, append=image[:, -1:] + 1) != 0
        end_of_run = _least_from_here(xp.where(is_last, here + 1, len(here)))
        end = xp.where(whole, end_of_run, end)
    # Padding takes the last end before it for both of its own: nothing is seen, neither vector
    # decreases, and no block of queries is made to visit keys for padding's sake.
    reached = _largest_so_far(xp.where(pad, 0, end))
    return xp.where(pad, reached, start), xp.where(pad, reached, end)


def _largest_so_far(x: Int[AnyArray, "B T"]) -> Int[AnyArray, "B T"]:
    if isinstance(x, np.ndarray):
        return np.maximum.accumulate(x, axis=1)
    return jax.lax.cummax(x, axis=1)


def _least_from_here(x: Int[AnyArray, "B T"]) -> Int[AnyArray, "B T"]:
    if isinstance(x, np.ndarray):
        return np.minimum.accumulate(x[:, ::-1], axis=1)[:, ::-1]
    return jax.lax.cummin(x, axis=1, reverse=True)


def full_intervals(
    batch: int, q_len: int, k_len: int
) -> tuple[Int[Array, "B Tq"], Int[Array, "B Tq"]]:
    """Every query sees every key: encoders, cross-attention to a full memory."""
    shape = (batch, q_len)
    return jnp.zeros(shape, jnp.int32), jnp.full(shape, k_len, jnp.int32)


def seen_by_intervals(
    kv_start: Int[Array, "B Tq"], kv_end: Int[Array, "B Tq"], k_len: int
) -> tuple[Int[Array, "B Tk"], Int[Array, "B Tk"]]:
    """The transposed intervals: key `k` is seen by the queries in `[q_start[k], q_end[k])`.

    A query is before all that see `k` when its interval has ended by `k`, and no later than the
    last of them when its interval has begun by `k`; both sets are prefixes of the row.
    """
    keys = jnp.arange(k_len, dtype=jnp.int32)
    count = jax.vmap(lambda ends: jnp.searchsorted(ends, keys, side="right"))
    return count(kv_end).astype(jnp.int32), count(kv_start).astype(jnp.int32)


def attention_pairs(
    kv_start: Int[AnyArray, "B Tq"], kv_end: Int[AnyArray, "B Tq"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The (query, key) pairs of a batch, truly and as if every row were one causal document.

    A pair costs `4 H D` FLOPs forward and 2.5 times that backward (arXiv 2205.14135, section 4.1).
    The first count is the work that has to be done. The second, `T (T + 1) / 2` for a row, is what
    most projects print, padding included.
    """
    rows, t = kv_start.shape
    pairs = jnp.sum((kv_end - kv_start).astype(jnp.float32))
    return pairs, jnp.float32(rows * (t * (t + 1) // 2))


def check_intervals(kv_start: np.ndarray, kv_end: np.ndarray, k_len: int) -> None:
    """Raises UserError, naming row and position, where host arrays `[B, Tq]` are no intervals."""
    start, end = np.asarray(kv_start), np.asarray(kv_end)
    if start.shape != end.shape or start.ndim != 2:
        raise UserError(
            "attention intervals", f"kv_start {start.shape} and kv_end {end.shape}",
            "the same [rows, queries]", "Both are vectors for each row.",
        )  # fmt: skip
    step = [(0, 0), (1, 0)]
    faults = (
        ("kv_start < 0", "indices of keys", start < 0),
        ("kv_end < kv_start", "kv_start <= kv_end", end < start),
        (f"kv_end > {k_len}", f"at most the number of keys, {k_len}", end > k_len),
        ("decreasing kv_start", "kv_start[q] >= kv_start[q - 1]",
         np.pad(np.diff(start, axis=1) < 0, step)),
        ("decreasing kv_end", "kv_end[q] >= kv_end[q - 1]",
         np.pad(np.diff(end, axis=1) < 0, step)),
    )  # fmt: skip
    for found, expected, fault in faults:
        if fault.any():
            row, position = np.argwhere(fault)[0]
            interval = f"[{start[row, position]}, {end[row, position]})"
            raise UserError(
                f"attention interval of row {row}, position {position}",
                f"{found}: {interval}",
                expected,
                "Documents must be contiguous in a row, with padding at its end.",
            )

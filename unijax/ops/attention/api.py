"""The one attention op of every transformer here."""

from jax import Array
from jaxtyping import Float, Int

from unijax.ops.attention.chunked import BLOCK, attention_chunked
from unijax.ops.attention.reference import attention_reference

IMPLEMENTATIONS = {"reference": attention_reference, "chunked": attention_chunked}


def attention(
    q: Float[Array, "B Tq H D"],
    k: Float[Array, "B Tk Hkv D"],
    v: Float[Array, "B Tk Hkv D"],
    kv_start: Int[Array, "B Tq"],
    kv_end: Int[Array, "B Tq"],
    *,
    scale: float | None = None,
    implementation: str | None = None,
) -> Float[Array, "B Tq H D"]:
    """Softmax attention in which query `i` sees the keys in `[kv_start[i], kv_end[i])`.

    Scores and softmax are float32 whatever the inputs are. Queries and keys may differ in length,
    and `H` may be a multiple of `Hkv`: head `h` reads key/value head `h // (H // Hkv)`. A query
    without a visible key yields zeros and passes no gradient.

    Args:
      kv_start, kv_end: int32, neither ever decreasing along a row (`intervals.check_intervals`).
      scale: of the scores; `D ** -0.5` if None.
      implementation: a key of `IMPLEMENTATIONS`; None lets `select_implementation` choose.

    Returns:
      Same shape and dtype as `q`.
    """
    if q.shape[2] % k.shape[2]:
        raise ValueError(f"{q.shape[2]} query heads are not a multiple of {k.shape[2]} key heads")
    name = implementation or select_implementation(q.shape[1], k.shape[1])
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"attention {implementation=} is not one of {sorted(IMPLEMENTATIONS)}")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return IMPLEMENTATIONS[name](q, k, v, kv_start, kv_end, scale=scale)


def select_implementation(q_len: int, k_len: int) -> str:
    """The implementation that None stands for: the quicker one on CPU (bench/attention.py).

    The blocks win wherever there is more than one. A few queries against a cache are quicker at
    once, and have no square of scores to save.
    """
    return "reference" if q_len <= 8 or k_len < BLOCK else "chunked"

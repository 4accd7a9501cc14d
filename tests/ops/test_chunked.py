"""Attention in blocks of XLA: sizes that do not fit each other, what the program holds, memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops.attention_suite import assert_all_close
from tests.ops.rows import packed_rows
from tests.walk import all_avals
from unijax.core.batch import Kind
from unijax.ops.attention import attention, packed_intervals
from unijax.ops.attention.block_sizes import block_sizes
from unijax.ops.attention.chunked import attention_chunked
from unijax.ops.attention.reference import attention_reference

ROWS, D, SCALE = 2, 8, 0.4
# (keys, queries: the last ones of the row, block of queries, block of keys, heads, key heads)
SHAPES = [
    (37, 37, 8, 8, 2, 2),
    (48, 48, 16, 7, 4, 2),
    (45, 19, 8, 16, 4, 1),
    (5, 1, 64, 64, 2, 2),
]


@functools.cache
def value_and_gradients(shape, dtype, reference):
    """Jitted `(q, k, v, dout, start, end) -> out, (dq, dk, dv)`."""
    _, _, block_q, block_k, _, _ = shape
    blocks = {} if reference else dict(block_q=block_q, block_k=block_k)
    fn = attention_reference if reference else attention_chunked

    @jax.jit
    def run(q, k, v, dout, start, end):
        def out_of(q, k, v):
            return fn(q, k, v, start, end, scale=SCALE, **blocks)

        out, pull = jax.vjp(out_of, *(x.astype(dtype) for x in (q, k, v)))
        return out, pull(dout.astype(dtype))

    return run


def random_inputs(shape, seed):
    """q, k, v and a cotangent, exact in bfloat16."""
    tk, tq, _, _, h, hkv = shape
    rng = np.random.default_rng(seed)
    sizes = [(ROWS, tq, h, D), (ROWS, tk, hkv, D), (ROWS, tk, hkv, D), (ROWS, tq, h, D)]
    return [jnp.asarray(rng.standard_normal(s), jnp.bfloat16).astype(jnp.float32) for s in sizes]


@st.composite
def cases(draw, shapes=SHAPES):
    """A shape, the fields of its rows, the kinds that see their whole span, a seed."""
    shape = draw(st.sampled_from(shapes))
    rows = packed_rows(ROWS, shape[0], longest_span=draw(st.sampled_from([3, 20])))
    whole = st.sampled_from([(), (Kind.GEN,), (Kind.UND, Kind.GEN)])
    return shape, draw(rows), draw(whole), draw(st.integers(0, 99))


intervals = jax.jit(packed_intervals, static_argnums=3)


def both_ways(case, dtype):
    """(out, dq, dk, dv) in blocks, the same of the float32 reference, and who sees nothing."""
    shape, fields, whole, seed = case
    queries = slice(shape[0] - shape[1], None)
    start, end = (x[:, queries] for x in intervals(*map(jnp.asarray, fields), whole))
    inputs = random_inputs(shape, seed)
    out, grads = value_and_gradients(shape, dtype, False)(*inputs, start, end)
    want, want_grads = value_and_gradients(shape, jnp.float32, True)(*inputs, start, end)
    return (out, *grads), (want, *want_grads), np.asarray(start == end)


@settings(max_examples=30, deadline=None)
@given(cases())
def test_packed_rows_equal_the_reference(case):
    found, want, blind = both_ways(case, jnp.float32)
    assert_all_close(found, want, 1e-5)
    out, dq, _, _ = map(np.asarray, found)
    assert not out[blind].any()
    assert not dq[blind].any()


def of_length(fn, tq, tk):
    """A jitted gradient and its arguments."""
    args = [
        jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1, tq, 2, D), (1, tk, 2, D), (1, tk, 2, D))
    ] + [jax.ShapeDtypeStruct((1, tq), jnp.int32)] * 2

    def loss(q, k, v, start, end):
        return jnp.sum(jnp.sin(fn(q, k, v, start, end, scale=SCALE)))

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2))), args


def test_no_array_of_all_pairs_in_the_program():
    def largest(fn):
        gradient, args = of_length(fn, 320, 448)
        return max(np.prod(a.shape, dtype=int) for a in all_avals(gradient.trace(*args).jaxpr))

    assert largest(attention_reference) >= 2 * 320 * 448
    block = block_sizes("chunked", D, jnp.float32)["block_k"]
    assert largest(attention_chunked) == 2 * max(448 * D, block**2)  # the keys, a block of scores


def test_memory_grows_with_the_length_not_its_square():
    def temporaries(fn, length):
        gradient, args = of_length(fn, length, length)
        return gradient.lower(*args).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(attention_reference, 1024) > 2 * 4 * 1024**2
    short, long = (temporaries(attention_chunked, n) for n in (1024, 4096))
    assert long < 4.5 * short
    assert long < 4 * 4096**2 / 8


def test_the_default_has_no_array_of_all_pairs():
    gradient, args = of_length(lambda *a, scale: attention(*a, scale=scale), 320, 448)
    largest = max(np.prod(a.shape, dtype=int) for a in all_avals(gradient.trace(*args).jaxpr))
    assert largest < 320 * 448

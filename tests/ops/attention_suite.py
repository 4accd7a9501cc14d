"""What every implementation of attention must do: a suite that each inherits."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops.attention_mistakes import MISTAKES
from tests.ops.mosaic_interpreter import QUICK_COMPILE
from tests.ops.rows import packed_rows
from unijax.core.batch import Kind
from unijax.core.errors import UserError
from unijax.ops.attention import attention, packed_intervals
from unijax.ops.attention.cases import CASES, Case, case_intervals
from unijax.ops.attention.reference import attention_reference

T, G, U = Kind.TEXT, Kind.GEN, Kind.UND
# Rows of spans `(document, kind, length)`: what goes wrong first.
NASTY = {
    "documents of one token": [(i, T, 1) for i in range(1, 9)],
    "an image ends its document": [(1, T, 3), (1, G, 7), (2, T, 5), (2, G, 9), (3, T, 2)],
    "two images side by side": [(1, T, 2), (1, G, 6), (1, G, 6), (1, T, 1), (2, G, 5), (2, U, 5)],
    "an image fills the row": [(1, G, 1000)],
    "an empty row": [],
}


def nasty_row(spans, length):
    """`segment, kind, image` `[1, length]`."""
    fields = np.zeros((3, 1, length), np.int32)
    at = 0
    for number, (document, kind, size) in enumerate(spans, 1):
        here = slice(at, at + size)
        fields[0, 0, here], fields[1, 0, here] = document, kind
        fields[2, 0, here] = number if kind != T else 0
        at += size
    return fields


def assert_close(found, want, tolerance):
    """Relative to the largest magnitude among all the wanted arrays."""
    largest = max(np.abs(np.asarray(x, np.float32)).max() for x in want)
    for x, y in zip(found, want, strict=True):
        assert x.shape == y.shape
        error = np.abs(np.asarray(x, np.float32) - np.asarray(y, np.float32)).max()
        assert error <= tolerance * largest, error / largest


def assert_all_close(found, want, tolerance):
    """The output by itself, the gradients together: alone in its document, a query has dq = 0, as a
    difference of two terms of the size of dv.
    """
    assert_close(found[:1], want[:1], tolerance)
    assert_close(found[1:], want[1:], tolerance)


@dataclasses.dataclass(frozen=True)
class Form:
    """What a program is compiled for."""

    rows: int
    q_len: int
    k_len: int
    heads: int
    kv_heads: int
    head_dim: int
    soft_cap: float | None = None

    @classmethod
    def of(cls, case: Case):
        return cls(case.rows, case.tokens, case.keys, case.heads, case.kv_heads, case.head_dim)

    def inputs(self, seed):
        """q, k, v and a cotangent, exact in bfloat16."""
        rng = np.random.default_rng(seed)
        of_query = self.rows, self.q_len, self.heads, self.head_dim
        of_key = self.rows, self.k_len, self.kv_heads, self.head_dim
        sizes = of_query, of_key, of_key, of_query
        return [
            jnp.asarray(rng.standard_normal(s), jnp.bfloat16).astype(jnp.float32) for s in sizes
        ]


@functools.cache
def program(attend, dtype, soft_cap):
    """Jitted `(q, k, v, dout, start, end) -> out, dq, dk, dv`."""

    @functools.partial(jax.jit, compiler_options=QUICK_COMPILE)
    def run(q, k, v, dout, start, end):
        def out_of(q, k, v):
            return attend(q, k, v, start, end, scale=0.4, soft_cap=soft_cap)

        out, pull = jax.vjp(out_of, *(x.astype(dtype) for x in (q, k, v)))
        return out, *pull(dout.astype(dtype))

    return run


intervals = jax.jit(packed_intervals, static_argnums=3)


class AttentionSuite:
    """Subclasses say which implementation, and at what sizes."""

    implementation: str
    options: ClassVar[dict] = {}  # of the implementation, for small rows
    tokens = 40  # of a row
    head_dim = 8
    dtype = jnp.float32
    tolerance = 1e-5
    examples = 20
    block = 16  # a multiple of all sizes of blocks
    # Of probabilities and gradients of scores as factors, where inputs are bfloat16: tensor cores
    # take no more than 8 bits of each.
    factor_bits = 8

    def __init_subclass__(cls):
        # One object for all tests of a class: what is compiled for it is found again.
        cls.attend = staticmethod(cls.attend_with())

    @classmethod
    def attend_with(cls, **options):
        return functools.partial(
            attention, implementation=cls.implementation, **cls.options, **options
        )

    def form(self, rows=1, **changes):
        t, d = self.tokens, self.head_dim
        return dataclasses.replace(Form(rows, t, t, 2, 1, d), **changes)

    def run(self, form, inputs, start, end, dtype=None):
        run = program(self.attend, dtype or self.dtype, form.soft_cap)
        return run(*inputs, jnp.asarray(start), jnp.asarray(end))

    def check(self, form, start, end, seed=0, dtype=None, tolerance=None):
        """Output and gradients are the reference's; queries and keys without a pair get zeros."""
        inputs = form.inputs(seed)
        found = self.run(form, inputs, start, end, dtype)
        want = program(attention_reference, jnp.float32, form.soft_cap)(
            *inputs, jnp.asarray(start, jnp.int32), jnp.asarray(end, jnp.int32)
        )
        assert all(x.dtype == (dtype or self.dtype) for x in found)
        assert_all_close(found, want, tolerance or self.tolerance)
        start, end = np.asarray(start), np.asarray(end)
        out, dq, dk, dv = map(np.asarray, found)
        blind = start == end
        assert not out[blind].any()
        assert not dq[blind].any()
        key = np.arange(form.k_len)
        seen = ((key >= start[..., None]) & (key < end[..., None])).any(1)
        assert not dk[~seen].any()
        assert not dv[~seen].any()

    @pytest.mark.parametrize("name", CASES)
    def test_rows_of_the_models(self, name):
        case = CASES[name].small(self.tokens)
        self.check(Form.of(case), *case_intervals(case))

    @pytest.mark.parametrize("whole", [(), (G,), (U, G)])
    @pytest.mark.parametrize("name", NASTY)
    def test_nasty_rows(self, name, whole):
        fields = nasty_row(NASTY[name], self.tokens)
        self.check(self.form(), *intervals(*map(jnp.asarray, fields), whole))

    def test_random_packed_rows(self):
        @settings(max_examples=self.examples, deadline=None)
        @given(st.data())
        def check(data):
            fields = data.draw(packed_rows(1, self.tokens, data.draw(st.sampled_from([3, 20]))))
            whole = data.draw(st.sampled_from([(), (G,), (U, G)]))
            self.check(self.form(), *intervals(*map(jnp.asarray, fields), whole))

        check()

    def test_random_intervals_of_other_keys(self):
        """Queries that see nothing between others, gaps between keys, lengths that differ."""

        @settings(max_examples=self.examples, deadline=None)
        @given(st.integers(0, 2**31), st.integers(0, 3))
        def check(seed, spread):
            form = self.form(k_len=self.tokens + 13)
            rng = np.random.default_rng(seed)
            start = np.sort(rng.integers(0, form.k_len + 1, (1, form.q_len)), axis=1)
            length = rng.integers(0, 1 + 4**spread, (1, form.q_len))
            end = np.maximum.accumulate(np.minimum(start + length, form.k_len), axis=1)
            self.check(form, start.astype(np.int32), end.astype(np.int32))

        check()

    @pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 2**-7), ("float16", 2**-10)])
    def test_16_bits(self, dtype, tolerance):
        """Probabilities, their gradients and the result each keep 8 bits of mantissa, or 11."""
        fields = nasty_row(NASTY["two images side by side"], self.tokens)
        args = intervals(*map(jnp.asarray, fields), (G,))
        self.check(self.form(), *args, dtype=jnp.dtype(dtype), tolerance=tolerance)

    def test_soft_cap(self):
        end = np.arange(self.tokens, dtype=np.int32)[None] + 1
        self.check(self.form(soft_cap=1.5), 0 * end, end)

    def test_the_same_at_every_run(self):
        form = self.form()
        fields = nasty_row(NASTY["an image ends its document"], self.tokens)
        args = form.inputs(1), *intervals(*map(jnp.asarray, fields), (G,))
        for first, second in zip(self.run(form, *args), self.run(form, *args)):
            np.testing.assert_array_equal(np.asarray(first), np.asarray(second))

    def test_no_document_sees_another(self):
        """Not in a single bit, whatever the other holds, its images included."""
        form = self.form()
        fields = nasty_row(NASTY["an image ends its document"], self.tokens)
        ends = intervals(*map(jnp.asarray, fields), (G,))
        mine = jnp.asarray(fields[0] == 2)[..., None, None]
        inputs, others = form.inputs(2), [7 * x for x in form.inputs(3)]
        mixed = [jnp.where(mine, x, y) for x, y in zip(inputs, others)]
        of_mine = np.asarray(mine)[0, :, 0, 0]
        for x, y in zip(self.run(form, inputs, *ends), self.run(form, mixed, *ends)):
            np.testing.assert_array_equal(np.asarray(x)[:, of_mine], np.asarray(y)[:, of_mine])

    def test_nothing_is_loaded_from_a_block_without_a_pair(self):
        """NaN in it would spread: a weight of zero does not hide it."""
        if self.implementation == "reference":
            pytest.skip("it works all pairs")
        size = self.block
        form = self.form(q_len=3 * size, k_len=3 * size)
        # The middle third sees itself; nobody else sees or is seen.
        here = np.arange(3 * size, dtype=np.int32)[None]
        seen = here[0] // size == 1
        start, end = np.clip(here, size, 2 * size), np.clip(here + 1, size, 2 * size)
        start[:, seen] = size
        q, k, v, dout = (x.at[:, ~seen].set(jnp.nan) for x in form.inputs(4))
        for x in self.run(form, (q, k, v, dout), start, end):
            x = np.asarray(x, np.float32)
            assert np.isfinite(x).all()
            assert x[:, seen].any()
            assert not x[:, ~seen].any()

    def test_nothing_is_loaded_from_a_gap_between_the_keys_of_a_block(self):
        """Queries side by side that see the first and the last keys: not what lies between."""
        if self.implementation == "reference":
            pytest.skip("it works all pairs")
        size = self.block
        form = self.form(q_len=size, k_len=3 * size)
        start = np.where(np.arange(size) < size // 4, 0, 2 * size)[None].astype(np.int32)
        q, k, v, dout = form.inputs(7)
        k, v = (x.at[:, size : 2 * size].set(jnp.nan) for x in (k, v))
        for x in self.run(form, (q, k, v, dout), start, start + size):
            assert np.isfinite(np.asarray(x, np.float32)).all()

    def test_large_scores(self):
        """The running maximum keeps the exponential in range, whatever the order of blocks."""
        form = self.form()
        q, k, v, dout = form.inputs(5)
        # Whole numbers, so that the scores are exact, up to several thousand.
        inputs = jnp.round(1000 * q), jnp.round(2 * k), v, dout
        end = jnp.arange(self.tokens, dtype=jnp.int32)[None] + 1
        found = self.run(form, inputs, 0 * end, end)
        want = program(attention_reference, jnp.float32, None)(*inputs, 0 * end, end)
        # The backward pass knows the normaliser as a logarithm, to 2**-24 of its size.
        tolerance = max(self.tolerance, 1e-3)
        assert_close(found[:1], want[:1], self.tolerance)
        assert_close(found[1:], want[1:], tolerance)

    def test_what_all_keys_share_is_not_in_dq(self):
        """A softmax does not see what is added to all scores, so tied keys give no dq: none even
        where they are so large that a rounding of any factor would show.
        """
        large = 1e4
        form = self.form()
        q, k, v, dout = form.inputs(8)
        k = jnp.broadcast_to(large * k[:, :1], k.shape).astype(jnp.bfloat16).astype(jnp.float32)
        end = np.arange(self.tokens, dtype=np.int32)[None] + 1
        found = self.run(form, (q * 1e-4, k, v, dout), 0 * end, end, jnp.bfloat16)
        # A gradient of scores is a difference of two terms, none above 2 max|v| sum|dout|.
        terms = 2 * jnp.abs(v).max() * jnp.abs(dout).sum(-1).max()
        error = np.abs(np.asarray(found[1], np.float32)).max()
        assert error <= 2.0**-self.factor_bits * 0.4 * jnp.abs(k).max() * terms

    @pytest.mark.parametrize("empty", ["rows", "q_len", "k_len", "heads", "head_dim", "all heads"])
    def test_nothing_to_attend(self, empty):
        form = self.form(**{"heads" if empty == "all heads" else empty: 0})
        if empty == "all heads":
            form = dataclasses.replace(form, kv_heads=0)
        none = np.zeros((form.rows, form.q_len), np.int32)
        end = none + form.k_len
        inputs = form.inputs(9)
        for x, y in zip(self.run(form, inputs, none, end), (inputs[0], *inputs[:3]), strict=True):
            assert x.shape == y.shape
            assert x.dtype == self.dtype
            assert not np.asarray(x).any()

    @pytest.mark.parametrize("name", MISTAKES)
    def test_arguments_that_do_not_fit_are_named(self, name):
        change, message = MISTAKES[name]
        form = self.form()
        q, k, v, _ = (x.astype(self.dtype) for x in form.inputs(10))
        end = jnp.arange(form.q_len, dtype=jnp.int32)[None] + 1
        args = dict(q=q, k=k, v=v, kv_start=0 * end, kv_end=end, scale=0.4, soft_cap=None)
        with pytest.raises(UserError, match="attention") as error:
            self.attend(**change(args))
        assert message in str(error.value)

    @pytest.mark.parametrize("dtype", ["int16", "uint32"])
    def test_ends_of_other_integers(self, dtype):
        form = self.form()
        end = np.arange(self.tokens, dtype=np.int32)[None] + 1
        self.check(form, (0 * end).astype(dtype), end.astype(dtype))

    def test_ends_beyond_the_keys(self):
        """What a traced program cannot refuse is taken as the mask would."""
        end = np.arange(self.tokens, dtype=np.int32)[None] + 8
        self.check(self.form(), end // 3, end)

    def test_under_scan_with_recomputation(self):
        form = self.form()
        q, k, v, dout = (x.astype(self.dtype) for x in form.inputs(6))
        end = jnp.arange(self.tokens, dtype=jnp.int32)[None] + 1

        @functools.partial(jax.jit, static_argnums=1)
        def gradient(q, attend):
            def loss(x):
                def layer(x, _):
                    return x + attend(jnp.sin(x), k, v, 0 * end, end, scale=0.4), None

                x, _ = jax.lax.scan(jax.checkpoint(layer), x, None, length=2)
                return jnp.sum((x * dout).astype(jnp.float32))

            return jax.grad(loss)(q)

        found, want = gradient(q, self.attend), gradient(q, attention_reference)
        assert_close([found], [want], 3 * self.tolerance)

    def test_residuals_grow_with_the_length(self):
        """Inputs, output and a number for each query and head are kept: no square."""
        if self.implementation == "reference":
            pytest.skip("it keeps the square")
        form = self.form(q_len=4 * self.tokens, k_len=4 * self.tokens)
        shapes = [jax.ShapeDtypeStruct(x.shape, self.dtype) for x in form.inputs(0)[:3]]
        ends = [jax.ShapeDtypeStruct((1, form.q_len), jnp.int32)] * 2
        kept = jax.eval_shape(
            lambda q, k, v, *ends: jax.vjp(
                lambda q, k, v: self.attend(q, k, v, *ends, scale=0.4), q, k, v
            )[1],
            *shapes,
            *ends,
        )
        sizes = sum(np.prod(x.shape, dtype=int) for x in jax.tree.leaves(kept))
        q, k, v = (np.prod(x.shape, dtype=int) for x in shapes)
        assert sizes <= 2 * q + k + v + form.q_len * (form.heads + 2) + 8

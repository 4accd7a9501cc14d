"""Image tokens of rows: put where they are addressed, found again, against loops."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops.rows import packed_rows
from unijax.core.batch import Kind
from unijax.ops import rows

B, T, I, N, D = 2, 11, 3, 2, 2
PLACE, COLLECT = jax.jit(rows.place), jax.jit(rows.collect, static_argnames="slots")
ANSWERS = jax.jit(rows.answers)


@st.composite
def addressed(draw):
    """For each row, addresses of image tokens, each at one position at most; and -1 elsewhere."""
    found = np.full((B, T), -1)
    for row in found:
        count = draw(st.integers(0, I * N))
        addresses = draw(st.permutations(range(I * N)))[:count]
        row[draw(st.permutations(range(T)))[:count]] = addresses
    return found


def values(*shape) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(addressed())
def test_placed_tokens_are_those_addressed(at):
    x, images = values(B, T, D), values(B, I, N, D)
    found = np.asarray(PLACE(x, images, at, at >= 0))
    for b in range(B):
        for t in range(T):
            want = images[b, at[b, t] // N, at[b, t] % N] if at[b, t] >= 0 else x[b, t]
            np.testing.assert_array_equal(found[b, t], want)


@settings(max_examples=60, deadline=None)
@given(addressed())
def test_collected_tokens_are_those_at_the_positions_that_address_them(at):
    """And none is found where nothing addresses it: there is zero."""
    x = values(B, T, D)
    found = np.asarray(COLLECT(x, at, at >= 0, slots=(I, N)))
    want = np.zeros((B, I, N, D), np.float32)
    for b in range(B):
        for t in range(T):
            if at[b, t] >= 0:
                want[b, at[b, t] // N, at[b, t] % N] = x[b, t]
    np.testing.assert_array_equal(found, want)


@settings(max_examples=60, deadline=None)
@given(addressed())
def test_to_collect_undoes_to_place(at):
    x, images = values(B, T, D), values(B, I, N, D)
    here = at >= 0
    shown = np.zeros((B, I * N), bool)
    for b in range(B):
        shown[b, at[b][here[b]]] = True
    back = np.asarray(COLLECT(PLACE(x, images, at, here), at, here, slots=(I, N)))
    np.testing.assert_array_equal(back, images * shown.reshape(B, I, N, 1))
    again = np.asarray(PLACE(0 * x, COLLECT(x, at, here, slots=(I, N)), at, here))
    np.testing.assert_array_equal(again, x * here[..., None])


@settings(max_examples=20, deadline=None)
@given(addressed())
def test_gradients_go_where_the_values_came_from(at):
    """Each is the other's transpose: what is not shown gets none."""
    here, y, images = at >= 0, values(B, T, D), values(B, I, N, D)
    placed = lambda x: jnp.sum(PLACE(0 * y, x, at, here) * y)  # noqa: E731
    grads = np.asarray(jax.grad(placed)(images))
    np.testing.assert_array_equal(grads, COLLECT(y, at, here, slots=(I, N)))
    collected = lambda x: jnp.sum(COLLECT(x, at, here, slots=(I, N)) * images)  # noqa: E731
    grads = np.asarray(jax.grad(collected)(y))
    np.testing.assert_array_equal(grads, PLACE(0 * y, images, at, here))


@settings(max_examples=40, deadline=None)
@given(addressed())
def test_answers_are_the_addressed_values(at):
    codes = np.arange(B * I * N, dtype=np.int32).reshape(B, I, N) + 100
    found = np.asarray(ANSWERS(codes, at, at >= 0))
    for b in range(B):
        for t in range(T):
            address = max(at[b, t], 0)
            assert found[b, t] == codes[b, address // N, address % N]


LENGTH = 30
HAS = jax.jit(rows.same_document_has)
BESIDE = jax.jit(rows.beside_images, static_argnames="kind")


@settings(max_examples=60, deadline=None)
@given(packed_rows(2, LENGTH), st.data())
def test_a_document_has_what_one_of_its_positions_is(fields, data):
    segment, _, _ = fields
    here = np.array(data.draw(st.lists(st.booleans(), min_size=2 * LENGTH, max_size=2 * LENGTH)))
    here = here.reshape(2, LENGTH)
    found = np.asarray(HAS(here, segment))
    for b in range(2):
        for t in range(LENGTH):
            assert found[b, t] == here[b][segment[b] == segment[b, t]].any()


@settings(max_examples=60, deadline=None)
@given(packed_rows(2, LENGTH))
def test_text_stands_before_images_behind_them_or_apart(fields):
    segment, kind, image = fields
    nothing = np.zeros_like(segment)
    batch = rows.PackedBatch(
        tokens=nothing, kind=kind, segment=segment, position=nothing, image=image,
        target_kind=nothing, target=nothing, weight=nothing, uid=nothing,
    )  # fmt: skip
    found = {name: np.asarray(x) for name, x in BESIDE(batch, kind=Kind.GEN).items()}
    for b in range(2):
        for t in range(LENGTH):
            if segment[b, t] == 0:
                continue
            own = segment[b] == segment[b, t]
            images = np.flatnonzero(own & (kind[b] == Kind.GEN))
            where = "text" if not len(images) else "understanding" if images[0] <= t else "prompt"
            assert [name for name, x in found.items() if x[b, t]] == [where]

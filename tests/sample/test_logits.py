"""Choices against slow, obvious versions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from unijax.core.errors import UserError
from unijax.sample.logits import GREEDY, Sampling, choose, guide, keep_top_k, keep_top_p

# Few different values, so that ties are common; float32 exactly.
LOGITS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.just(9)),
    elements=st.integers(-12, 12).map(lambda x: x / 4),
)
TOP_K, TOP_P, DRAW = jax.jit(keep_top_k), jax.jit(keep_top_p), jax.jit(choose)


@settings(max_examples=60, deadline=None)
@given(LOGITS, st.integers(1, 12))
def test_top_k_keeps_what_no_k_others_beat(logits, k):
    got = np.asarray(TOP_K(logits, jnp.int32(k)))
    for row, kept in zip(logits, got):
        for x, y in zip(row, kept):
            assert y == (x if np.sum(row > x) < k else -np.inf)


@settings(max_examples=60, deadline=None)
@given(LOGITS, st.floats(0.01, 0.99))
def test_top_p_keeps_what_more_likely_ids_leave_room_for(logits, p):
    got = np.asarray(TOP_P(logits, jnp.float32(p)))
    for row, kept in zip(logits.astype(np.float64), got):
        share = np.exp(row) / np.exp(row).sum()
        for i, x in enumerate(row):
            above = share[row > x].sum()
            if abs(above - p) > 1e-5:  # otherwise rounding decides
                assert kept[i] == (np.float32(x) if above < p else -np.inf)
        assert np.isfinite(kept[np.argmax(row)])


@settings(max_examples=30, deadline=None)
@given(LOGITS, LOGITS, st.floats(0, 8))
def test_guidance(conditional, unconditional, scale):
    rows = min(len(conditional), len(unconditional))
    c, u = conditional[:rows], unconditional[:rows]
    want = u.astype(np.float64) + scale * (c.astype(np.float64) - u)
    got = jax.jit(guide)(c, u, jnp.float32(scale))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_draws_follow_the_distribution_that_is_left():
    """Temperature first, then top-k, then top-p of what top-k left."""
    logits = np.log(np.array([[0.35, 0.3, 0.2, 0.1, 0.05]], np.float32)) * 2  # temperature 2
    keys = jax.random.split(jax.random.key(0), 20_000)
    rows = jnp.broadcast_to(jnp.asarray(logits), (len(keys), 5))

    def shares(sampling):
        return np.bincount(np.asarray(DRAW(rows, keys, sampling.choice())), minlength=5) / len(keys)

    for sampling, want in (
        (Sampling(2.0), [0.35, 0.3, 0.2, 0.1, 0.05]),
        (Sampling(2.0, top_k=3), [0.35 / 0.85, 0.3 / 0.85, 0.2 / 0.85, 0, 0]),
        (
            Sampling(2.0, top_p=0.6),
            [0.35 / 0.65, 0.3 / 0.65, 0, 0, 0],
        ),  # 0.65 is the first over 0.6
        (Sampling(2.0, top_k=2, top_p=0.6), [0.35 / 0.65, 0.3 / 0.65, 0, 0, 0]),
        (Sampling(2.0, top_k=2, top_p=0.5), [1, 0, 0, 0, 0]),  # the first is 0.54 of the two
        (Sampling(1.0), np.array([0.1225, 0.09, 0.04, 0.01, 0.0025]) / 0.265),
    ):
        # Standard deviation of a share: at most 0.0035.
        np.testing.assert_allclose(shares(sampling), want, atol=0.016)
        assert (shares(sampling)[np.array(want) == 0] == 0).all()


def test_greedy_takes_the_first_of_the_best_and_needs_no_key():
    logits = np.array([[1, 3, 3, 0], [5, 4, 3, 2]], np.float32)
    for seed in range(3):
        keys = jax.random.split(jax.random.key(seed), 2)
        assert choose(jnp.asarray(logits), keys, GREEDY.choice()).tolist() == [1, 0]


def test_a_row_draws_with_its_own_key():
    logits = jnp.zeros((4, 50))
    keys = jax.random.split(jax.random.key(3), 4)
    whole = DRAW(logits, keys, Sampling().choice())
    alone = [DRAW(logits[:1], keys[i : i + 1], Sampling().choice())[0] for i in range(4)]
    assert whole.tolist() == [int(x) for x in alone]
    assert len(set(whole.tolist())) > 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -0.5}, "temperature: found -0.5; expected 0"),
        ({"top_k": -1}, "top_k: found -1; expected 0"),
        ({"top_p": 0.0}, "top_p: found 0.0; expected more than 0"),
        ({"top_p": 1.5}, "top_p: found 1.5; expected more than 0"),
    ],
)
def test_numbers_out_of_range(values, message):
    with pytest.raises(UserError, match=message):
        Sampling(**values)

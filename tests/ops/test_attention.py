"""Every implementation of attention against a dense mask in float64, forward and backward."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unijax.ops.attention import IMPLEMENTATIONS, attention, full_intervals


def slow_attention(q, k, v, start, end, scale):
    """One query and head at a time."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    group = q.shape[2] // k.shape[2]
    out = np.zeros_like(q)
    for b, t, h in np.ndindex(*q.shape[:3]):
        keys = slice(int(start[b, t]), int(end[b, t]))
        scores = scale * k[b, keys, h // group] @ q[b, t, h]
        if scores.size:
            p = np.exp(scores - scores.max())
            out[b, t, h] = p / p.sum() @ v[b, keys, h // group]
    return out


def random_intervals(rng, b, tq, tk):
    """Any two non-decreasing vectors, one not above the other; some rows see nothing."""
    start = np.sort(rng.integers(0, tk + 1, (b, tq)), axis=1)
    end = np.maximum(start, np.sort(rng.integers(0, tk + 1, (b, tq)), axis=1))
    return jnp.asarray(start, jnp.int32), jnp.asarray(end, jnp.int32)


def random_inputs(seed, b, tq, tk, h, hkv, d, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    q, k, v = (
        jnp.asarray(rng.standard_normal((b, t, n, d)), dtype)
        for t, n in ((tq, h), (tk, hkv), (tk, hkv))
    )
    return q, k, v, *random_intervals(rng, b, tq, tk)


SHAPES = [(2, 9, 9, 2, 2, 8), (1, 5, 17, 4, 2, 4), (2, 1, 12, 4, 1, 8)]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_equals_slow(implementation, shape):
    q, k, v, start, end = random_inputs(0, *shape)
    for scale in (None, 0.3):
        out = attention(q, k, v, start, end, scale=scale, implementation=implementation)
        want = slow_attention(q, k, v, start, end, scale or shape[-1] ** -0.5)
        np.testing.assert_allclose(out, want, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_blind_queries_and_unseen_keys(implementation):
    """A query without a key gives zero and no gradient; a key that nobody sees gets none."""
    q, k, v, start, end = random_inputs(1, 1, 6, 6, 2, 2, 4)
    start = jnp.array([[0, 1, 1, 3, 3, 3]], jnp.int32)
    end = jnp.array([[2, 2, 2, 3, 3, 5]], jnp.int32)

    def loss(q, k, v):
        return (attention(q, k, v, start, end, implementation=implementation) ** 2).sum()

    out = attention(q, k, v, start, end, implementation=implementation)
    dq, dk, dv = jax.grad(loss, (0, 1, 2))(1e6 * q, k, v)
    blind, unseen = slice(3, 5), np.array([2, 5])
    assert not out[:, blind].any()
    assert out[:, 5].any()
    assert not dq[:, blind].any()
    assert not dk[:, unseen].any()
    assert not dv[:, unseen].any()
    assert all(np.isfinite(x).all() for x in (dq, dk, dv))


@pytest.mark.parametrize("heads", [(4, 2), (2, 2)])
@pytest.mark.parametrize("q_len", [1, 20])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_bfloat16_stays_and_is_close(implementation, q_len, heads):
    """Compiled: XLA's CPU backend lacks some products of bfloat16."""
    q, k, v, start, end = random_inputs(2, 2, q_len, 20, *heads, 8, jnp.bfloat16)
    attend = jax.jit(functools.partial(attention, implementation=implementation))
    out = attend(q, k, v, start, end)
    assert out.dtype == jnp.bfloat16
    want = slow_attention(q, k, v, start, end, 8**-0.5)
    # p and the result are each rounded to 8 bits of mantissa.
    np.testing.assert_allclose(np.asarray(out, np.float32), want, atol=2**-7 * np.abs(want).max())


def test_wrong_names_and_heads():
    q = jnp.zeros((1, 2, 3, 4))
    with pytest.raises(ValueError, match="'nope' is not one of"):
        attention(q, q, q, *full_intervals(1, 2, 2), implementation="nope")
    with pytest.raises(ValueError, match="3 query heads are not a multiple of 2 key heads"):
        attention(q, q[:, :, :2], q[:, :, :2], *full_intervals(1, 2, 2))

"""Dropout by place: against one position after another, and its share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unijax.ops.dropout import dropout

RATE, D = 0.3, 16


def positions(rows=3, length=20):
    rng = np.random.default_rng(0)
    document = jnp.asarray(rng.integers(0, 2**32, (rows, length), dtype=np.uint32))
    return document, jnp.asarray(rng.integers(0, 5000, (rows, length), dtype=np.int32))


def test_equals_one_position_after_another():
    x = jax.random.normal(jax.random.key(1), (3, 20, D))
    place, key = positions(), jax.random.key(2)
    found = jax.jit(lambda x: dropout(x, RATE, key, place))(x)
    for b, t in np.ndindex(3, 20):
        mine = jax.random.fold_in(jax.random.fold_in(key, place[0][b, t]), place[1][b, t])
        kept = jax.random.bernoulli(mine, 1 - RATE, (D,))
        want = np.where(kept, x[b, t] / (1 - RATE), 0)
        np.testing.assert_allclose(found[b, t], want, rtol=1e-6)


def test_bits_follow_their_place():
    place, key = positions(), jax.random.key(2)
    ones = jnp.ones((3, 20, D))
    whole = dropout(ones, RATE, key, place)
    order = np.random.default_rng(1).permutation(60)
    moved = [p.reshape(1, 60)[:, order] for p in place]
    np.testing.assert_array_equal(
        dropout(ones.reshape(1, 60, D), RATE, key, moved), whole.reshape(1, 60, D)[:, order]
    )


@pytest.mark.parametrize("changed", ["document", "position", "key"])
def test_bits_are_of_key_document_and_position(changed):
    place, key = positions(), jax.random.key(2)
    other = {
        "document": ((place[0] + 1, place[1]), key),
        "position": ((place[0], place[1] + 1), key),
        "key": (place, jax.random.key(3)),
    }[changed]
    ones = jnp.ones((3, 20, D))
    same = (dropout(ones, RATE, key, place) > 0) == (dropout(ones, RATE, other[1], other[0]) > 0)
    # Independent bits agree where both are kept or both are not.
    assert np.mean(same) == pytest.approx(RATE**2 + (1 - RATE) ** 2, abs=0.05)


def test_a_share_is_dropped_and_the_mean_stays():
    place = jnp.arange(2000)[None]
    found = dropout(jnp.ones((1, 2000, D), jnp.bfloat16), RATE, jax.random.key(0), place)
    assert found.dtype == jnp.bfloat16
    assert np.mean(found == 0) == pytest.approx(RATE, abs=0.01)
    assert float(jnp.mean(found.astype(jnp.float32))) == pytest.approx(1.0, abs=0.02)

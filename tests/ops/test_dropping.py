"""What is dropped is a function of the picture's seed, and of the rates that were asked for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unijax.ops.dropping import drop_path_scales, kept_count, kept_patches

SEEDS = st.lists(st.integers(0, 2**32 - 1), min_size=4, max_size=4, unique=True)
SCALES = jax.jit(functools.partial(drop_path_scales, layers=3, rate=0.5))
KEPT = jax.jit(kept_patches, static_argnums=(1, 2))  # of few sizes: each is compiled


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.randoms())
def test_the_place_in_a_batch_decides_nothing(seeds, random):
    order = list(range(len(seeds)))
    random.shuffle(order)
    seed = jnp.array(seeds, jnp.uint32)
    turned = seed[jnp.array(order)]
    scales, others = (np.asarray(SCALES(s)) for s in (seed, turned))
    np.testing.assert_array_equal(scales[:, order], others)
    kept, others = (np.asarray(KEPT(s, 9, 0.5)) for s in (seed, turned))
    np.testing.assert_array_equal(kept[order], others)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.sampled_from([1, 9, 16]), st.sampled_from([0.0, 0.5, 0.99]))
def test_so_many_patches_remain_in_their_order(seeds, patches, rate):
    kept = np.asarray(KEPT(jnp.array(seeds, jnp.uint32), patches, rate))
    assert kept.shape == (len(seeds), max(1, int(patches * (1 - rate))))
    assert kept.shape[1] == kept_count(patches, rate)
    assert (np.diff(kept, axis=1) > 0).all()
    assert kept.min() >= 0
    assert kept.max() < patches


def test_without_a_rate_nothing_is_dropped():
    seed = jnp.arange(3, dtype=jnp.uint32)
    np.testing.assert_array_equal(kept_patches(seed, 5, 0.0), np.tile(np.arange(5), (3, 1)))
    np.testing.assert_array_equal(drop_path_scales(seed, 4, 0.0), np.ones((4, 3, 2)))


def test_rates_rise_evenly_from_none_to_the_last_blocks():
    seed = jnp.arange(20000, dtype=jnp.uint32)
    scales = np.asarray(drop_path_scales(seed, 4, 0.6))
    for layer, rate in enumerate((0.0, 0.2, 0.4, 0.6)):
        found = scales[layer]
        for branch in found.T:
            assert (branch == 0).mean() == pytest.approx(rate, abs=0.015)
        np.testing.assert_allclose(np.unique(found)[-1], 1 / (1 - rate), rtol=1e-6)
        assert found.mean() == pytest.approx(1.0, abs=0.03)
    # Branches and layers are drawn apart.
    flat = (scales[1:] == 0).reshape(3, -1, 2).transpose(1, 0, 2).reshape(20000, -1)
    off_diagonal = np.corrcoef(flat.T) - np.eye(6)
    assert np.abs(off_diagonal).max() < 0.03


def test_every_set_of_patches_is_as_likely():
    kept = np.asarray(kept_patches(jnp.arange(20000, dtype=jnp.uint32), 4, 0.5))
    _, counts = np.unique(kept, axis=0, return_counts=True)
    assert len(counts) == 6
    np.testing.assert_allclose(counts / 20000, 1 / 6, atol=0.015)

"""Quantisation on the unit sphere against the distances written out."""

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from unijax.ops import quantize

FLOATS = st.floats(-2, 2, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3)
VECTORS = hnp.arrays(np.float32, (3, 4), elements=FLOATS)
TABLE = hnp.arrays(np.float32, (5, 4), elements=FLOATS)


def normalised(x):
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(VECTORS, TABLE)
def test_the_nearest_code_is_nearest_on_the_sphere(latents, codebook):
    codes = np.asarray(quantize.nearest_code(jnp.asarray(latents), jnp.asarray(codebook)))
    z, rows = normalised(latents), normalised(codebook)
    similarity = z @ rows.T
    chosen = similarity[np.arange(3), codes]
    np.testing.assert_allclose(chosen, similarity.max(-1), atol=1e-6)
    # Of equal rows the first: ids must not depend on the order of a reduction.
    for code in codes:
        assert code == min(k for k in range(5) if np.array_equal(codebook[k], codebook[code]))


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(VECTORS)
def test_unit_norm_is_torch_normalize(x):
    ours = quantize.unit_norm(jnp.asarray(x))
    np.testing.assert_allclose(ours, normalised(x), atol=1e-6)


def test_bfloat16_latents_are_compared_in_float32():
    codebook = jax.random.normal(jax.random.key(0), (64, 8))
    latents = jax.random.normal(jax.random.key(1), (256, 8)).astype(jnp.bfloat16)
    codes = quantize.nearest_code(latents, codebook)
    np.testing.assert_array_equal(
        codes, quantize.nearest_code(latents.astype(jnp.float32), codebook)
    )
    assert codes.dtype == jnp.int32
    assert quantize.look_up(codes, codebook.astype(jnp.bfloat16)).dtype == jnp.float32


def test_straight_through_passes_the_gradient_and_the_value():
    z, q = jnp.arange(4.0), jnp.ones(4)
    value, pull = jax.vjp(quantize.straight_through, z, q)
    np.testing.assert_allclose(value, q)
    dz, dq = pull(jnp.array([1.0, 2.0, 3.0, 4.0]))
    np.testing.assert_allclose(dz, [1, 2, 3, 4])
    np.testing.assert_allclose(dq, 0)

"""Rotary positions against a rotation of complex numbers, and what they are for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from unijax.ops.rope import RopeScaling, apply_rope, grid_rope_tables, rope_tables

THETA, D = 100.0, 8


def slow_rope(x, position):
    """Dimension i and i + D/2 as one complex number, turned by position * theta ** (-2i / D)."""
    x = np.asarray(x, np.float64)
    out = np.empty_like(x)
    for b, t, i in np.ndindex(*position.shape, D // 2):
        pair = x[b, t, :, i] + 1j * x[b, t, :, i + D // 2]
        pair = pair * np.exp(1j * position[b, t] * THETA ** (-2 * i / D))
        out[b, t, :, i], out[b, t, :, i + D // 2] = pair.real, pair.imag
    return out


def test_rotates_halves_as_complex_numbers():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 5, 3, D)), jnp.float32)
    position = rng.integers(0, 500, (2, 5))
    cos, sin = rope_tables(jnp.asarray(position), D, THETA)
    np.testing.assert_allclose(apply_rope(x, cos, sin), slow_rope(x, position), atol=5e-5)


def test_scores_depend_on_the_distance_alone():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, D))

    def score(at_q, at_k):
        turned = [
            apply_rope(x, *rope_tables(jnp.array([[at]]), D, THETA))
            for x, at in ((q, at_q), (k, at_k))
        ]
        return float(jnp.vdot(*turned))

    assert score(3, 1) == pytest.approx(score(42, 40), abs=1e-5)
    assert score(0, 0) == pytest.approx(float(jnp.vdot(q, k)), abs=1e-6)
    assert abs(score(3, 1) - score(3, 2)) > 1e-2


def test_tables_are_float32_and_the_result_is_the_inputs_dtype():
    tables = rope_tables(jnp.array([[4095]]), D, 1e4)
    assert {t.dtype for t in tables} == {jnp.dtype("float32")}
    x = jnp.ones((1, 1, 1, D), jnp.bfloat16)
    assert apply_rope(x, *tables).dtype == jnp.bfloat16
    # The first pair turns by its position itself: 4095 radians would be 4096 in bfloat16.
    np.testing.assert_allclose(tables[0][0, 0, 0], np.cos(4095.0), atol=1e-5)


@pytest.mark.parametrize("factor", [8.0, 32.0])  # of Llama 3.1 and of 3.2
def test_scaled_rotation_is_that_of_llama_3(factor):
    values = {
        "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    rope = {"rope_type": "llama3", "rope_theta": 5e5} | values
    config = transformers.LlamaConfig(head_dim=128, rope_parameters=rope)
    want, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    frequency = 5e5 ** (-np.arange(0, 128, 2) / 128)
    found = frequency / RopeScaling(**values).slower(128, 5e5)
    np.testing.assert_allclose(found, want.numpy(), rtol=1e-6)
    # The fastest turn as before, the slowest `factor` times slower, and some in between.
    assert len(set(np.round(frequency / found, 3)) - {1.0, factor}) > 4
    position = jnp.array([[0, 1, 1000]])
    cos, _ = rope_tables(position, 128, 5e5, RopeScaling(**values))
    np.testing.assert_allclose(cos[0], np.cos(position.T * want.numpy()), atol=1e-4)


def test_each_section_turns_with_its_own_axis():
    position = np.random.default_rng(0).integers(0, 50, (2, 5, 3))
    sections = (1, 2, 1)
    cos, sin = rope_tables(jnp.asarray(position), D, THETA, sections=sections)
    at = 0
    for axis, count in enumerate(sections):
        one = rope_tables(jnp.asarray(position[..., axis]), D, THETA)
        for found, want in zip((cos, sin), one):
            part = slice(at, at + count)
            np.testing.assert_array_equal(found[..., part], want[..., part])
        at += count
    assert at == D // 2


def test_positions_of_other_axes_than_sections_are_told():
    with pytest.raises(AssertionError, match=r"\(1, 2, 3\), \(\)"):
        rope_tables(jnp.zeros((1, 2, 3), int), D, THETA)


@pytest.mark.parametrize("side", [3, 4, 6])
def test_a_grid_turns_half_of_the_pairs_with_rows_and_half_with_columns(side):
    """Against complex numbers; the places of any grid are spread over those of the reference."""
    reference, d = 4, 16
    cos, sin = grid_rope_tables(side, d, THETA, reference)
    assert cos.shape == sin.shape == (side * side, d // 2)
    x = np.random.default_rng(0).standard_normal((1, side * side, 1, d)).astype(np.float32)
    turned = np.asarray(apply_rope(jnp.asarray(x), cos[None], sin[None]))[0, :, 0]
    for row, column in np.ndindex(side, side):
        here = row * side + column
        for pair in range(d // 2):
            place = row if pair < d // 4 else column
            frequency = THETA ** (-2 * (pair % (d // 4)) / (d // 2))
            z = x[0, here, 0, pair] + 1j * x[0, here, 0, pair + d // 2]
            z = z * np.exp(1j * place / side * reference * frequency)
            found = turned[here, pair] + 1j * turned[here, pair + d // 2]
            np.testing.assert_allclose(found, z, atol=1e-5)

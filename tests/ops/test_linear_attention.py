"""Linear attention against the sum over all pairs, and depthwise convolution against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from unijax.ops.depthwise import depthwise
from unijax.ops.linear_attention import linear_attention


def test_linear_attention_is_the_sum_over_pairs():
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(2, n, 3, 4)).astype("f4") for n in (5, 7, 7))
    weights = np.einsum("bnhd,bmhd->bhnm", np.maximum(q, 0), np.maximum(k, 0))
    shares = weights / np.maximum(weights.sum(-1, keepdims=True), 1e-30)
    expected = np.einsum("bhnm,bmhd->bnhd", shares, v)
    ours = linear_attention(*map(jnp.asarray, (q, k, v)))
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    half = linear_attention(*(jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)))
    assert half.dtype == jnp.bfloat16


def test_a_query_that_meets_no_key_gets_nothing():
    q = -jnp.ones((1, 2, 1, 4))
    y = linear_attention(q, jnp.ones_like(q), jnp.ones_like(q))
    np.testing.assert_array_equal(y, 0)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [((1, 1), (1, 1)), ((0, 1), (2, 0))])
def test_depthwise_is_torch_s_grouped_convolution(stride, padding):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 7, 6, 5)).astype("f4"), rng.normal(size=(3, 3, 5)).astype("f4")
    ours = jax.jit(depthwise, static_argnums=(2, 3))(x, kernel, padding, stride)
    (top, bottom), (left, right) = padding
    pixels = torch.nn.functional.pad(
        torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), (left, right, top, bottom)
    )
    weight = torch.from_numpy(kernel.transpose(2, 0, 1)[:, None].copy())
    expected = torch.nn.functional.conv2d(pixels, weight, stride=stride, groups=5)
    np.testing.assert_allclose(ours, expected.permute(0, 2, 3, 1), atol=1e-5)

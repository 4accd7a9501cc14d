"""The product with weights: equal to the plain one, and its gradient is not rounded on the way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.walk import all_equations, product_flops
from unijax.ops.linear import linear


def arrays(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    x, kernel, dy = (rng.standard_normal(s, np.float32) for s in ((4, 64, 8), (8, 6), (4, 64, 6)))
    return jnp.asarray(x, dtype), jnp.asarray(kernel), jnp.asarray(dy, dtype)


def test_in_float32_it_is_the_plain_product_bit_for_bit():
    x, kernel, dy = arrays()
    rows, dy = x.reshape(-1, 8), dy.reshape(-1, 6)
    y, pull = jax.vjp(linear, rows, kernel)
    want, want_pull = jax.vjp(jnp.dot, rows, kernel)
    np.testing.assert_array_equal(y, want)
    jax.tree.map(np.testing.assert_array_equal, pull(dy), want_pull(dy))


def test_a_gradient_of_float32_weights_is_not_rounded_to_bfloat16():
    x, kernel, dy = arrays(jnp.bfloat16)
    y, pull = jax.vjp(linear, x, kernel)
    dx, dkernel = pull(dy)
    assert (y.dtype, dx.dtype, dkernel.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    exact = np.einsum("btd,btf->df", *(np.asarray(a, np.float64) for a in (x, dy)))
    scale = np.abs(exact).max()
    assert np.abs(dkernel - exact).max() < 1e-6 * scale
    plain = jax.vjp(lambda k: jnp.dot(x, k.astype(x.dtype)), kernel)[1](dy)[0]
    assert np.abs(plain - exact).max() > 1e-4 * scale


@pytest.mark.parametrize("which", [0, 1])
def test_what_is_not_asked_for_is_not_worked(which):
    x, kernel, _ = arrays()

    def loss(x, kernel):
        return jnp.sum(linear(x, kernel) ** 2)

    one = jax.make_jaxpr(jax.grad(loss, which))(x, kernel)
    both = jax.make_jaxpr(jax.grad(loss, (0, 1)))(x, kernel)
    assert product_flops(both) * 2 == product_flops(one) * 3


def test_weights_are_summed_over_devices_in_their_own_precision():
    """The reduction is of the product's result: its dtype in the program is that of the sum."""
    x, kernel, _ = arrays(jnp.bfloat16)
    program = jax.make_jaxpr(jax.grad(lambda k: jnp.sum(linear(x, k).astype(jnp.float32))))(kernel)
    of_kernel = [
        e.outvars[0].aval.dtype
        for e in all_equations(program)
        if e.primitive.name == "dot_general" and e.outvars[0].aval.shape == kernel.shape
    ]
    assert of_kernel == [jnp.float32]

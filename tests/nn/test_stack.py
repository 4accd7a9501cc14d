"""A stack against its blocks run one by one; what remat keeps."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from tests.walk import all_equations
from unijax.core import axes
from unijax.nn.layers import Dense
from unijax.nn.stack import stack, unstack
from unijax.ops.attention import attention

LENGTH, B, T, D = 3, 2, 64, 8


class Block(nn.Module):
    """Attention whose values are scaled by layer; returns its mean as an output of the layer."""

    scale: float

    @nn.compact
    def __call__(self, x, per_layer, shared):
        h = Dense(D, (axes.EMBED, axes.MLP), name="proj")(x)[:, :, None]
        h = attention(h, h, per_layer * h, *shared, implementation="chunked")[:, :, 0]
        return x + self.scale * jnp.tanh(h), jnp.mean(h)


class Stacked(nn.Module):
    remat: str = "none"

    @nn.compact
    def __call__(self, x, per_layer, shared):
        return stack(Block, LENGTH, self.remat, "layers", scale=0.5)(x, per_layer, shared)


@pytest.fixture(scope="module")
def case():
    keys = jax.random.split(jax.random.key(0), 3)
    x, per_layer = jax.random.normal(keys[0], (B, T, D)), jax.random.normal(keys[1], (LENGTH,))
    end = jnp.broadcast_to(jnp.arange(T) + 1, (B, T))
    args = x, per_layer, (jnp.zeros_like(end), end)
    params = Stacked().init(keys[2], *args)["params"]
    return params, args


def test_equals_the_blocks_one_by_one(case):
    params, (x, per_layer, shared) = case
    box = params["layers"]["proj"]["kernel"]
    assert box.names == (axes.LAYERS, axes.EMBED, axes.MLP)
    params = jax.tree.map(lambda p: 20 * p, meta.unbox(params))
    got, means = Stacked().apply({"params": params}, x, per_layer, shared)
    apart = unstack(params | {"norm": {"scale": x}}, "layers")
    assert set(apart) == {"layers_0", "layers_1", "layers_2", "norm"}
    for i in range(LENGTH):
        layer = {"params": apart[f"layers_{i}"]}
        x, mean = Block(scale=0.5).apply(layer, x, per_layer[i], shared)
        np.testing.assert_allclose(means[i], mean, atol=1e-6)
    np.testing.assert_allclose(got, x, atol=1e-5)


def test_dots_recomputes_no_product(case):
    """Neither with weights nor of attention; full recomputes them."""
    params, args = case

    def products(remat):
        loss = lambda p: jnp.sum(Stacked(remat).apply({"params": p}, *args)[0] ** 2)  # noqa: E731
        program = jax.make_jaxpr(jax.grad(loss))(meta.unbox(params))
        return sum(e.primitive.name == "dot_general" for e in all_equations(program))

    assert products("dots") == products("none") < products("full")


def test_an_unknown_remat_is_named(case):
    params, args = case
    with pytest.raises(ValueError, match="remat='some' is not one of"):
        Stacked("some").apply({"params": params}, *args)

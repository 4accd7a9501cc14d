"""A stack against its blocks one after another, and what each way of recomputing costs."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.walk import product_flops
from unijax.core import axes
from unijax.core.tree import flatten
from unijax.models.llama import Layer, LlamaConfig
from unijax.nn.layers import Dense, Dropout
from unijax.nn.stack import stack, unstack
from unijax.ops.attention import full_intervals
from unijax.ops.rope import rope_tables

LENGTH, D = 3, 4


class Block(nn.Module):
    """Adds a layer's own bias to what is carried, times what is shared; gives out the sum."""

    @nn.compact
    def __call__(self, x, bias, shared):
        y = x + shared * Dense(D, (axes.EMBED, axes.EMBED), name="fc")(x)
        y = y if bias is None else y + bias
        return y, jnp.sum(y)


class Whole(nn.Module):
    remat: str = "none"

    @nn.compact
    def __call__(self, x, biases, shared):
        return stack(Block, LENGTH, self.remat, "layers")(x, biases, shared)


def test_blocks_run_in_order_each_with_its_own():
    x, biases = jnp.ones((2, D)), jax.random.normal(jax.random.key(0), (LENGTH, D))
    params = nn.unbox(Whole().init(jax.random.key(1), x, biases, 0.5))
    found, sums = jax.jit(Whole().apply)(params, x, biases, 0.5)
    alone = unstack(params["params"], "layers")
    assert alone.keys() == {f"layers_{i}" for i in range(LENGTH)}
    for i in range(LENGTH):
        x, total = Block().apply({"params": alone[f"layers_{i}"]}, x, biases[i], 0.5)
        np.testing.assert_allclose(sums[i], total, rtol=1e-6)
    np.testing.assert_allclose(found, x, rtol=1e-6)


def test_parameters_have_a_named_axis_of_layers_and_draws_of_their_own():
    boxed = Whole().init(jax.random.key(1), jnp.ones((2, D)), None, 0.5)["params"]
    kernel = boxed["layers"]["fc"]["kernel"]
    assert kernel.names == (axes.LAYERS, axes.EMBED, axes.EMBED)
    assert kernel.value.shape == (LENGTH, D, D)
    assert not np.array_equal(kernel.value[0], kernel.value[1])


def test_unstack_keeps_the_rest():
    params = {"layers": {"a": {"scale": np.arange(6).reshape(2, 3)}}, "norm": {"scale": 7}}
    apart = unstack(params, "layers")
    assert flatten(apart).keys() == {"layers_0/a/scale", "layers_1/a/scale", "norm/scale"}
    np.testing.assert_array_equal(apart["layers_1"]["a"]["scale"], [3, 4, 5])


def test_unknown_remat_is_named():
    with pytest.raises(ValueError, match=r"remat='some' is not one of \['dots', 'full', 'none'\]"):
        Whole("some").init(jax.random.key(0), jnp.ones((2, D)), None, 0.5)


class Dropping(nn.Module):
    """Gives out what two layers of dropout leave of ones."""

    @nn.compact
    def __call__(self, x, per_layer, place):
        ones = jnp.ones_like(x)
        return x, [Dropout(0.5, name=name)(ones, place) for name in ("first", "second")]


def test_every_layer_and_every_use_drops_its_own():
    class Whole(nn.Module):
        @nn.compact
        def __call__(self, x, place):
            return stack(Dropping, LENGTH, "none", "layers")(x, None, place)[1]

    x, place = jnp.ones((1, 50, D)), jnp.arange(50)[None]

    def left(seed):
        found = Whole().apply({}, x, (place,), rngs={"dropout": jax.random.key(seed)})
        return np.concatenate(found)  # uses, then layers

    found = left(0)
    np.testing.assert_array_equal(left(0), found)
    drawn = [*found, *left(1)]
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert np.mean(one == other) == pytest.approx(0.5, abs=0.15)
    assert np.all(np.stack(Whole().apply({}, x, (place,))) == 1)


class Layers(nn.Module):
    """Layers of the decoder, on rows long enough for attention in blocks."""

    remat: str

    @nn.compact
    def __call__(self, x):
        config = LlamaConfig(8, 16, 24, LENGTH, 2, 2, 8)
        t = x.shape[1]
        rope = rope_tables(jnp.arange(t)[None], 8, 1e4)
        shared = None, rope, *full_intervals(1, t, t)
        return stack(Layer, LENGTH, self.remat, "layers", config=config)(x, None, shared)[0]


def test_what_is_recomputed():
    x = jnp.zeros((1, 128, 16))

    def products(remat):
        module = Layers(remat)
        params = jax.eval_shape(module.init, jax.random.key(0), x)
        loss = lambda p: jnp.sum(module.apply(p, x) ** 2)  # noqa: E731
        forward = product_flops(jax.make_jaxpr(module.apply)(params, x).jaxpr)
        return forward, product_flops(jax.make_jaxpr(jax.grad(loss))(params).jaxpr)

    (forward, none), (_, dots), (_, full) = map(products, ("none", "dots", "full"))
    assert dots == none  # the products with weights and attention are kept
    # All but each layer's last product, whose result no gradient needs.
    last = LENGTH * 2 * 128 * 24 * 16
    assert full == none + forward - last

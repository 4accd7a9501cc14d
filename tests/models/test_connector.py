"""MetaQuery's connector against Qwen2 of transformers, its counts, its sizes."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.walk import product_flops
from tests.weights import distance, randomise, shapes_of, through
from unijax.core import axes, tree
from unijax.core.errors import UserError
from unijax.interop.metaquery_parts import connector
from unijax.interop.systems.metaquery import networks
from unijax.interop.table import Table
from unijax.models.connector import Connector, ConnectorConfig

# Of the encoder and the projections of the released code, by the width of the language model.
PUBLISHED = {896: 315_811_584, 2048: 1_620_990_720, 3584: 4_946_676_480}
SMALL = ConnectorConfig(32, 24, 3, head_dim=8, scale=1.5)


@pytest.mark.parametrize("order", ["enc_proj", "proj_enc"])
def test_equal_to_the_reference(order):
    config = dataclasses.replace(SMALL, order=order)
    theirs = randomise(networks.connector(config))
    names = Table(tuple(connector(config, "", "")))
    boxed = jax.eval_shape(Connector(config).init, jax.random.key(0), jnp.zeros((1, 1, 32)))
    params = through(names, theirs.state_dict(), shapes_of(nn.unbox(boxed)["params"]))
    x = np.random.default_rng(0).standard_normal((2, 7, 32), np.float32)
    with torch.no_grad():
        want = theirs(torch.from_numpy(x))
    ours = jax.jit(Connector(config).apply)({"params": params}, x)
    assert distance(ours, want) <= 1e-5


@pytest.mark.parametrize("width", PUBLISHED)
def test_published_counts(width):
    """315.8M, 1.62B and 4.95B."""
    config = ConnectorConfig(width, 2304, scale=math.sqrt(5.5))
    boxed = jax.eval_shape(Connector(config).init, jax.random.key(0), jnp.zeros((1, 1, width)))
    count = sum(x.size for x in jax.tree.leaves(nn.unbox(boxed)))
    with torch.device("meta"):
        assert sum(p.numel() for p in networks.connector(config).parameters()) == count
    assert count == config.count_parameters() == PUBLISHED[width]


@pytest.mark.parametrize(
    ("order", "layers", "millions"),
    [("proj_enc", 6, 517), ("proj_enc", 24, 2046), ("enc_proj", 6, 84), ("enc_proj", 24, 316)],
)
def test_counts_of_the_papers_comparison(order, layers, millions):
    config = ConnectorConfig(896, 2304, layers, order=order)
    assert round(config.count_parameters() / 1e6) == millions


def test_how_it_starts():
    config = ConnectorConfig(64, 96, 2, head_dim=16, scale=math.sqrt(5.5))
    params = nn.unbox(Connector(config).init(jax.random.key(0), jnp.zeros((1, 1, 64))))["params"]
    np.testing.assert_allclose(params["norm"]["scale"], math.sqrt(5.5))
    for path, x in tree.flatten(params).items():
        if path.endswith("kernel"):
            assert np.std(x) == pytest.approx(0.014, rel=0.1), path


def test_flops_are_those_of_the_program():
    for order in ("enc_proj", "proj_enc"):
        model = Connector(dataclasses.replace(SMALL, order=order))
        boxed = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1, 32)))
        run = jax.make_jaxpr(model.apply)(nn.unbox(boxed), jnp.zeros((2, 6, 32)))
        assert product_flops(run) == 2 * model.config.flops(6)


def test_half_precision_and_logical_axes():
    model = Connector(SMALL, dtype=jnp.bfloat16)
    boxed = model.init(jax.random.key(0), jnp.zeros((1, 1, 32)))
    for box in jax.tree.leaves(boxed, is_leaf=lambda x: hasattr(x, "names")):
        assert box.value.dtype == jnp.float32
        assert set(box.names) <= axes.ALL
    assert model.apply(nn.unbox(boxed), jnp.zeros((1, 5, 32))).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": "projenc"}, "ConnectorConfig.order: found 'projenc'; expected one of"),
        ({"head_dim": 12}, "head_dim: found 12; expected a divisor of the blocks' width, 32"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: found 0; expected at least 1"),
    ],
)
def test_sizes_that_cannot_work_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(SMALL, **change)

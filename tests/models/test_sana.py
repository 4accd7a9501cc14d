"""Sana against diffusers' `SanaTransformer2DModel` on random weights."""

import dataclasses
import json
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.latent_oracles import diffusers
from tests.walk import product_flops
from tests.weights import distance, randomise
from unijax.core import axes
from unijax.core.errors import UserError
from unijax.interop import diffusers_parts
from unijax.interop.diffusers_configs import config_json
from unijax.interop.table import foreign_shapes
from unijax.models.sana import SIZES, Sana, SanaConfig

SMALL = SIZES["sana_test"]
# Of diffusers' network.
PUBLISHED = {"sana_1600m": 1_604_462_752, "sana_600m": 591_747_872}


def reference(cfg: SanaConfig) -> diffusers.SanaTransformer2DModel:
    return diffusers.SanaTransformer2DModel.from_config(config_json(cfg))


def inputs(cfg: SanaConfig, height: int, width: int, context_tokens: int = 6):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, height, width, cfg.in_channels))
    context = rng.normal(size=(2, context_tokens, cfg.caption_channels))
    return tuple(jnp.asarray(a, jnp.float32) for a in (x, [3.0, 741.5], context))


def theirs_of(model, x, timestep, context):
    x, timestep, context = (torch.from_numpy(np.array(a)) for a in (x, timestep, context))
    with torch.no_grad():
        return model(x.permute(0, 3, 1, 2), context, timestep).sample.permute(0, 2, 3, 1)


def pair(cfg, tmp_path):
    theirs = randomise(reference(cfg))
    theirs.save_pretrained(tmp_path / "sana")
    read, params = diffusers_parts.read(tmp_path / "sana")
    assert read == cfg
    return theirs, params


@pytest.mark.parametrize(("height", "width"), [(4, 4), (3, 5)])
def test_equal_to_the_reference(height, width, tmp_path):
    theirs, params = pair(SMALL, tmp_path)
    given = inputs(SMALL, height, width)
    ours = jax.jit(Sana(SMALL).apply)({"params": params}, *given)
    assert distance(ours, theirs_of(theirs, *given)) <= 1e-4  # composed of its layers


def test_a_layer_at_full_width_is_equal_to_the_reference(tmp_path):
    cfg = dataclasses.replace(SIZES["sana_600m"], num_layers=1)
    theirs, params = pair(cfg, tmp_path)
    given = inputs(cfg, 3, 4)
    ours = jax.jit(Sana(cfg).apply)({"params": params}, *given)
    assert distance(ours, theirs_of(theirs, *given)) <= 1e-4


def test_a_written_directory_loads_into_diffusers(tmp_path):
    theirs, params = pair(SMALL, tmp_path)
    diffusers_parts.write(tmp_path / "out", SMALL, params)
    back, info = diffusers.SanaTransformer2DModel.from_pretrained(
        tmp_path / "out", output_loading_info=True, low_cpu_mem_usage=False
    )
    assert not any(info.values()), info
    for (name, a), (_, b) in zip(theirs.state_dict().items(), back.state_dict().items()):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes_have_the_published_counts(size):
    cfg = SIZES[size]
    with torch.device("meta"):
        theirs = reference(cfg)
    shapes = diffusers_parts.shapes(cfg)
    expected = {n: tuple(p.shape) for n, p in theirs.state_dict().items()}
    assert foreign_shapes(diffusers_parts.table(cfg), shapes) == expected
    assert sum(map(math.prod, shapes.values())) == PUBLISHED[size]


def test_flops_are_those_of_the_program():
    x, timestep, context = (a[:1] for a in inputs(SMALL, 4, 4))
    shapes = jax.eval_shape(Sana(SMALL).init, jax.random.key(0), x, timestep, context)
    jaxpr = jax.make_jaxpr(Sana(SMALL).apply)(nn.unbox(shapes), x, timestep, context)
    # The depthwise convolution is written as shifted products, which are no product of matrices.
    depthwise = SMALL.num_layers * 2 * 16 * 9 * 2 * SMALL.hidden
    assert product_flops(jaxpr) == SMALL.flops_per_image(6) - depthwise


def test_half_precision_and_logical_axes():
    half = {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16}
    given = inputs(SMALL, 4, 4)
    is_box = lambda x: isinstance(x, nn.LogicallyPartitioned)  # noqa: E731
    shapes = jax.eval_shape(Sana(SMALL, **half).init, jax.random.key(0), *given)
    for leaf in jax.tree.leaves(shapes, is_leaf=is_box):
        assert axes.ALL.issuperset(leaf.names)
        assert len(leaf.names) == len(leaf.value.shape)
        assert leaf.value.dtype == jnp.bfloat16
    out = jax.eval_shape(Sana(SMALL, **half).apply, nn.unbox(shapes), *given)
    assert out.dtype == jnp.float32


def test_features_of_another_width_are_refused():
    x, timestep, context = inputs(SMALL, 4, 4)
    with pytest.raises(UserError, match="a width of 12; expected caption_channels, 24"):
        jax.eval_shape(Sana(SMALL).init, jax.random.key(0), x, timestep, context[..., :12])


def test_sizes_that_cannot_work_are_refused(tmp_path):
    with pytest.raises(UserError, match="a product of 2016; expected the width, 2240"):
        SanaConfig(num_cross_attention_heads=18)
    reference(SMALL).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"qk_norm": "rms_norm_across_heads"}))
    with pytest.raises(UserError, match="qk_norm: found 'rms_norm_across_heads'; expected None"):
        diffusers_parts.read(tmp_path)

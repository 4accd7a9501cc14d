"""The U-Net against diffusers' `UNet2DConditionModel` on random weights, and its halves."""

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
from tests.long import long
from tests.walk import product_flops
from tests.weights import distance, randomise
from unijax.core import axes, tree
from unijax.core.errors import UserError
from unijax.interop import diffusers_parts
from unijax.interop.diffusers_configs import config_json
from unijax.interop.table import foreign_shapes
from unijax.models.unet import SIZES, TRANSFUSION, PatchUNet, UNet, UNetConfig

SMALL = SIZES["unet_test"]
KINDS = {
    "two levels": SMALL,
    "three levels, two layers": dataclasses.replace(
        SMALL, in_channels=3, out_channels=5, block_out_channels=(32, 32, 64), layers_per_block=2,
        attention_levels=(False, True, True), cross_attention_dim=40, num_attention_heads=2,
    ),
}  # fmt: skip
# Of diffusers' network.
PUBLISHED = {"sd15_unet": 859_520_964, "emu_unet": 968_146_884}


def reference(cfg: UNetConfig) -> diffusers.UNet2DConditionModel:
    return diffusers.UNet2DConditionModel.from_config(config_json(cfg))


def inputs(cfg: UNetConfig, context_tokens: int = 5):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, cfg.sample_size, cfg.sample_size, cfg.in_channels))
    context = rng.normal(size=(2, context_tokens, cfg.cross_attention_dim))
    return tuple(jnp.asarray(a, jnp.float32) for a in (x, [3.0, 741.5], context))


def theirs_of(model, x, timestep, context):
    x, *others = (torch.from_numpy(np.array(a)) for a in (x, timestep, context))
    with torch.no_grad():
        return model(x.permute(0, 3, 1, 2), *others).sample.permute(0, 2, 3, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_the_reference(kind, tmp_path):
    cfg = KINDS[kind]
    theirs = randomise(reference(cfg))
    theirs.save_pretrained(tmp_path / "unet")
    read, params = diffusers_parts.read(tmp_path / "unet")
    assert read == cfg
    given = inputs(cfg)
    ours = jax.jit(UNet(cfg).apply)({"params": params}, *given)
    assert distance(ours, theirs_of(theirs, *given)) <= 1e-4  # composed of all its blocks


@long
def test_a_level_at_full_width_is_equal_to_the_reference(tmp_path):
    # Stable Diffusion's second: 640 channels in heads of 80, and its context.
    cfg = UNetConfig(
        sample_size=4, block_out_channels=(640,), layers_per_block=1, attention_levels=(True,)
    )
    theirs = randomise(reference(cfg))
    theirs.save_pretrained(tmp_path / "unet")
    _, params = diffusers_parts.read(tmp_path / "unet")
    given = inputs(cfg, context_tokens=77)
    ours = jax.jit(UNet(cfg).apply)({"params": params}, *given)
    assert distance(ours, theirs_of(theirs, *given)) <= 1e-4


def test_a_written_directory_loads_into_diffusers(tmp_path):
    cfg = SMALL
    theirs = randomise(reference(cfg))
    theirs.save_pretrained(tmp_path / "in")
    _, params = diffusers_parts.read(tmp_path / "in")
    diffusers_parts.write(tmp_path / "out", cfg, params)
    back, info = diffusers.UNet2DConditionModel.from_pretrained(
        tmp_path / "out", output_loading_info=True, low_cpu_mem_usage=False
    )
    assert not any(info.values()), info
    for (name, a), (_, b) in zip(theirs.state_dict().items(), back.state_dict().items()):
        assert torch.equal(a, b), name
    public = lambda model: {k: v for k, v in model.config.items() if k[0] != "_"}  # noqa: E731
    assert public(back) == public(theirs)


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes_have_the_published_counts(size):
    cfg = SIZES[size]
    with torch.device("meta"):
        theirs = reference(cfg)
    shapes = diffusers_parts.shapes(cfg)
    expected = {n: tuple(p.shape) for n, p in theirs.state_dict().items()}
    assert foreign_shapes(diffusers_parts.table(cfg), shapes) == expected
    assert sum(map(math.prod, shapes.values())) == PUBLISHED[size]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_linear_projection": True}, "use_linear_projection: found True; expected False"),
        ({"attention_head_dim": [5, 10]}, r"found \[5, 10\]; expected a whole number"),
        ({"mid_block_type": "UNetMidBlock2D"}, "found 'UNetMidBlock2D'; expected 'UNetMidBlock2DC"),
        ({"cross_attention_dim": 32}, r"attn2.to_k.weight \[32, 24\] instead of \[32, 32\]"),
        ({"up_block_types": ["UpBlock2D"] * 2}, "up_block_types: found .*expected"),
    ],
)
def test_a_directory_of_another_network_is_refused(tmp_path, change, message):
    reference(SMALL).save_pretrained(tmp_path / "unet")
    path = tmp_path / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        diffusers_parts.read(tmp_path / "unet")


def test_features_of_another_width_and_pictures_of_another_size_are_refused():
    shapes = {"params": as_shapes(diffusers_parts.shapes(SMALL))}
    apply = lambda *given: jax.eval_shape(UNet(SMALL).apply, shapes, *given)  # noqa: E731
    x, timestep, context = inputs(SMALL)
    with pytest.raises(UserError, match="a width of 12; expected cross_attention_dim, 24"):
        apply(x, timestep, context[..., :12])
    with pytest.raises(UserError, match="a width of 0; expected cross_attention_dim, 24"):
        apply(x, timestep)
    with pytest.raises(UserError, match="7 latents of a side; expected a multiple of 2"):
        apply(x[:, :7], timestep, context)


def as_shapes(shapes):
    return tree.unflatten({p: jax.ShapeDtypeStruct(s, jnp.float32) for p, s in shapes.items()})


@pytest.fixture(scope="module")
def patch_unet():
    """A small one of Transfusion's, its random parameters and an input."""
    cfg = dataclasses.replace(SMALL, in_channels=8, out_channels=8, mid_block=False,
                              attention_levels=(False, True), cross_attention_dim=0)  # fmt: skip
    model = PatchUNet(cfg, width=48)
    x, timestep, _ = inputs(cfg)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x, timestep)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda s: rng.normal(size=s.shape, scale=math.prod(s.shape[:-1]) ** -0.5).astype("f4"),
        nn.unbox(shapes),
    )
    return model, params, x, timestep


def test_patches_are_tokens_on_the_way_down_and_a_picture_on_the_way_up(patch_unet):
    model, params, x, timestep = patch_unet

    @jax.jit
    def run(params, x, timestep, added):
        tokens, skips = model.apply(params, x, timestep, method="down")
        return tokens, model.apply(params, tokens + added, timestep, skips, method="up")

    tokens, out = run(params, x, timestep, 0.0)
    assert tokens.shape == (2, 16, 48)  # patches of 2 latents of a side
    assert out.shape == x.shape
    np.testing.assert_allclose(out, jax.jit(model.apply)(params, x, timestep), atol=1e-5)
    # What is predicted depends on the tokens, on the timestep and on the picture beside them.
    assert distance(run(params, x, timestep, 1.0)[1], out) > 1e-3
    assert distance(run(params, x, timestep + 100, 0.0)[1], out) > 1e-3
    # Pictures of a batch do not see one another.
    alone = run(params, x[1:], timestep[1:], 0.0)
    assert distance(alone[0], tokens[1:]) <= 1e-5
    assert distance(alone[1], out[1:]) <= 1e-5


def test_tokens_are_in_raster_order(patch_unet):
    model, params, x, timestep = patch_unet
    # Without attention, whose level sees everything, a change stays near its place.
    local = dataclasses.replace(model.config, attention_levels=(False, False))
    model = PatchUNet(local, width=48)
    params = {
        p: jnp.asarray(v)
        for p, v in tree.flatten(params["params"]).items()
        if "/attentions_" not in p
    }
    params = {"params": tree.unflatten(params)}
    run = jax.jit(lambda x: model.apply(params, x, timestep, method="down")[0])
    # Group norm spreads a change of size over the picture, but far less than where it is.
    moved = x.at[:, 6:8, 0:2].add(1.0)  # the fourth row and the first column of patches
    change = np.abs(run(moved) - run(x)).sum((0, 2))
    assert change.argmax() == 12
    assert change[3] < 0.3 * change[12]


@pytest.mark.parametrize("patch", [2, 4, 8])
def test_transfusion_s_layers_are_of_the_published_size(patch):
    # About 0.27B parameters (arXiv 2408.11039, section 4.1), at the width of the 7B transformer.
    cfg = TRANSFUSION[patch]
    assert cfg.downsampling == patch
    assert cfg.sample_size == 32
    x = jnp.zeros((1, 32, 32, 8))
    shapes = jax.eval_shape(PatchUNet(cfg, 4096).init, jax.random.key(0), x, jnp.zeros(1))
    count = sum(math.prod(s.shape) for s in jax.tree.leaves(shapes))
    assert count == pytest.approx(0.27e9, rel=0.06)


def test_flops_are_those_of_the_program():
    for cfg in (*KINDS.values(), dataclasses.replace(SMALL, cross_attention_dim=0)):
        cfg = dataclasses.replace(cfg, sample_size=4)  # more would be attended to in blocks
        x, timestep, context = (a[:1] for a in inputs(cfg))
        context = context if cfg.cross_attention_dim else None
        shapes = jax.eval_shape(UNet(cfg).init, jax.random.key(0), x, timestep, context)
        jaxpr = jax.make_jaxpr(UNet(cfg).apply)(nn.unbox(shapes), x, timestep, context)
        expected = cfg.flops_per_image(5 if cfg.cross_attention_dim else 0)
        assert product_flops(jaxpr) == expected


def test_recomputed_activations_change_no_gradient():
    cfg = UNetConfig(
        sample_size=4, block_out_channels=(64,), layers_per_block=1, attention_levels=(False,),
        mid_block=False, cross_attention_dim=0,
    )  # fmt: skip
    x, timestep, _ = inputs(cfg)
    shapes = nn.unbox(jax.eval_shape(UNet(cfg).init, jax.random.key(0), x, timestep))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda s: rng.normal(size=s.shape, scale=math.prod(s.shape[:-1]) ** -0.5).astype("f4"),
        shapes,
    )

    def gradient(remat):
        loss = lambda p: jnp.sum(UNet(cfg, remat).apply(p, x, timestep) ** 2)  # noqa: E731
        assert (remat != "none") == ("remat" in str(jax.make_jaxpr(loss)(params)))
        return tree.flatten(jax.jit(jax.grad(loss))(params)["params"])

    whole = gradient("none")
    largest = max(float(jnp.abs(g).max()) for g in whole.values())
    for path, g in gradient("full").items():
        np.testing.assert_allclose(g, whole[path], atol=1e-5 * largest, err_msg=path)


def test_bfloat16_runs_in_bfloat16():
    half = UNet(SMALL, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    shapes = jax.eval_shape(half.init, jax.random.key(0), *inputs(SMALL))
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.bfloat16)}
    jaxpr = jax.make_jaxpr(half.apply)(nn.unbox(shapes), *inputs(SMALL))
    convolutions = [e for e in jaxpr.jaxpr.eqns if e.primitive.name == "conv_general_dilated"]
    assert convolutions
    assert {v.aval.dtype for e in convolutions for v in e.invars} == {jnp.dtype(jnp.bfloat16)}
    assert jaxpr.out_avals[0].dtype == jnp.float32


def test_every_parameter_has_logical_axes():
    is_box = lambda x: isinstance(x, nn.LogicallyPartitioned)  # noqa: E731
    shapes = jax.eval_shape(UNet(SMALL).init, jax.random.key(0), *inputs(SMALL))
    for leaf in jax.tree.leaves(shapes, is_leaf=is_box):
        assert is_box(leaf)
        assert axes.ALL.issuperset(leaf.names)
        assert len(leaf.names) == len(leaf.value.shape)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"block_out_channels": (48,), "attention_levels": (True,)}, "a level of 48 channels"),
        ({"attention_levels": (True,)}, "1 values; expected 4, one for each"),
        ({"num_attention_heads": 7}, "found 7; expected a divisor of the 320 channels of level 0"),
        ({"sample_size": 60}, "60 latents of a side; expected a multiple of 8"),
    ],
)
def test_sizes_that_cannot_work_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        UNetConfig(**fields)

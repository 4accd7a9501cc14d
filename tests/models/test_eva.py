"""EVA's towers against timm's on random weights, and what timm leaves to chance."""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.oracles import timm
from tests.walk import product_flops
from tests.weights import distance, randomise, shapes_of, through
from unijax.core import axes, tree
from unijax.core.errors import UserError
from unijax.interop.eva_parts import eva_part, released
from unijax.models.eva import SIZES, Eva, EvaConfig
from unijax.ops.dropping import drop_path_scales, kept_patches

# What each publication adds to the plain block, at a small width. Rotary positions are those of a
# grid of another size than the picture's.
SMALL = EvaConfig(32, 64, 2, 2, image_size=32, patch_size=8)
EVA02 = dataclasses.replace(SMALL, intermediate_size=85, hidden_act="swiglu", rope_grid=3)
KINDS = {
    "EVA-01": SMALL,
    "EVA-02 packed": EVA02,
    "EVA-02 with sub-LN": dataclasses.replace(EVA02, mlp_norm=True),
    "EVA-CLIP": dataclasses.replace(EVA02, mlp_norm=True, attention_norm=True),
    "EVA-CLIP E": dataclasses.replace(SMALL, post_norm=True),
    "layer scale": dataclasses.replace(SMALL, layer_scale=0.1),
}
TIMMS = timm.list_models("eva*", module="eva")
PUBLISHED = [name for name in SIZES if name in TIMMS]


def build(cfg: EvaConfig) -> torch.nn.Module:
    """timm's network of these sizes, without pooling and head."""
    return timm.models.eva.Eva(
        img_size=cfg.image_size,
        patch_size=cfg.patch_size,
        embed_dim=cfg.hidden_size,
        depth=cfg.num_hidden_layers,
        num_heads=cfg.num_attention_heads,
        mlp_ratio=cfg.intermediate_size / cfg.hidden_size + 1e-9,
        qkv_fused=not cfg.mlp_norm,
        swiglu_mlp=cfg.hidden_act == "swiglu",
        scale_mlp=cfg.mlp_norm,
        scale_attn_inner=cfg.attention_norm,
        use_rot_pos_emb=cfg.rope_grid > 0,
        ref_feat_shape=(cfg.rope_grid, cfg.rope_grid) if cfg.rope_grid else None,
        use_post_norm=cfg.post_norm,
        init_values=cfg.layer_scale or None,
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=cfg.layer_norm_eps),
        num_classes=0,
        global_pool="",
    )


def pixels_of(cfg: EvaConfig, count: int = 3) -> np.ndarray:
    shape = (count, cfg.image_size, cfg.image_size, 3)
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def torch_pixels(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())


@functools.cache
def init_shapes(cfg: EvaConfig) -> dict:
    pixels = jax.ShapeDtypeStruct((1, cfg.image_size, cfg.image_size, 3), jnp.float32)
    return jax.eval_shape(Eva(cfg).init, jax.random.key(0), pixels)["params"]


def params_of(cfg: EvaConfig, model: torch.nn.Module) -> dict:
    shapes = shapes_of({"vision_model": nn.unbox(init_shapes(cfg))})
    tower = through(eva_part(cfg, released(cfg)), model.state_dict(), shapes)["vision_model"]
    return {"params": tower}


def made(cfg: EvaConfig):
    model = randomise(build(cfg))
    return cfg, model, params_of(cfg, model)


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS.keys())
def pair(request):
    return made(request.param)


PLAIN_AND_ALL = ("EVA-01", "EVA-CLIP")


@pytest.fixture(scope="module", params=[KINDS[k] for k in PLAIN_AND_ALL], ids=PLAIN_AND_ALL)
def either(request):
    """The plain block, and the one with most in it."""
    return made(request.param)


def theirs(model: torch.nn.Module, pixels: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        return model(torch_pixels(pixels))


def test_every_token_equals_timms(pair):
    cfg, model, params = pair
    pixels = pixels_of(cfg)
    ours = jax.jit(Eva(cfg).apply)(params, pixels)
    assert ours.shape == (3, 1 + cfg.num_tokens, cfg.hidden_size)
    assert distance(ours, theirs(model, pixels)) < 1e-5


def test_features_before_the_last_norm(either):
    cfg, model, params = either
    pixels, caught = pixels_of(cfg), []
    hook = model.norm.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    theirs(model, pixels)
    hook.remove()
    before = Eva(dataclasses.replace(cfg, features="pre_norm"))
    params = {"params": {k: v for k, v in params["params"].items() if k != "post_layernorm"}}
    assert distance(jax.jit(before.apply)(params, pixels), caught[0]) < 1e-5


@pytest.mark.parametrize(
    "change", [{"post_norm": True}, {"rope_grid": 0}, {"rope_grid": 4}, {"layer_norm_eps": 1e-3}]
)
def test_each_kind_is_told_from_the_others(change):
    # Their differences must not hide below the tolerance above: a switch that did nothing would.
    cfg, model, params = made(KINDS["EVA-CLIP"])
    pixels = pixels_of(cfg)
    other = Eva(dataclasses.replace(cfg, **change))
    assert distance(jax.jit(other.apply)(params, pixels), theirs(model, pixels)) > 1e-4


@pytest.mark.parametrize("name", [n for n in PUBLISHED if n.endswith("224")])
def test_two_layers_at_full_width_equal_timms(name):
    cfg = dataclasses.replace(SIZES[name], num_hidden_layers=2)
    small = 6 * cfg.patch_size  # a grid of 6: other positions than those of 16
    cfg = dataclasses.replace(cfg, image_size=small)
    torch.manual_seed(0)
    model = timm.create_model(name, depth=2, img_size=small, num_classes=0, global_pool="")
    randomise(model)
    pixels = pixels_of(cfg, 1)
    ours = jax.jit(Eva(cfg).apply)(params_of(cfg, model), pixels)
    assert distance(ours, theirs(model, pixels)) < 1e-5


# Counts


def count(shapes: dict) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_have_timms_parameters(name):
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0, global_pool="token")
    assert count(init_shapes(SIZES[name])) == sum(p.numel() for p in model.parameters())


def test_the_giant_with_mask_token_and_head_has_the_published_number():
    giant = SIZES["eva_giant_patch14_224"]
    assert count(init_shapes(giant)) == 1_011_146_112
    masked = count(init_shapes(dataclasses.replace(giant, mask_token=True)))
    assert masked + (1408 + 1) * 768 == 1_012_229_632


def test_all_that_timm_has_is_named():
    assert set(TIMMS) == set(PUBLISHED)
    assert len(PUBLISHED) == 16


# What is dropped


SEED = jnp.array([7, 2**32 - 1, 0], jnp.uint32)


def test_dropped_branches_are_those_of_the_seed(either):
    cfg, model, params = either
    dropping = dataclasses.replace(cfg, drop_path=0.6)
    scales = np.asarray(drop_path_scales(SEED, cfg.num_hidden_layers, 0.6))
    assert (scales == 0).any()
    for block, scale in zip(model.blocks, scales):
        for name, of_branch in zip(("drop_path1", "drop_path2"), scale.T):
            setattr(block, name, Times(of_branch))
    pixels = pixels_of(cfg)
    wanted = theirs(model, pixels)
    for block in model.blocks:
        block.drop_path1 = block.drop_path2 = torch.nn.Identity()
    assert distance(jax.jit(Eva(dropping).apply)(params, pixels, SEED), wanted) < 1e-5
    still = jax.jit(Eva(dropping).apply)(params, pixels)
    assert distance(still, theirs(model, pixels)) < 1e-5


class Times(torch.nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = torch.from_numpy(scale.copy())[:, None, None]

    def forward(self, x):
        return x * self.scale


def test_patches_that_remain_keep_their_positions(either):
    """timm is given the same patches in another order: the class token cannot tell."""
    cfg, model, params = either
    dropping = dataclasses.replace(cfg, patch_dropout=0.6)
    kept = np.asarray(kept_patches(SEED, cfg.num_tokens, 0.6))
    assert kept.shape == (3, 6)
    order = np.random.default_rng(0).permutation(kept.shape[1])
    shuffled = torch.from_numpy(kept[:, order].copy()).long()

    def drop(x):
        at = shuffled[..., None].expand(-1, -1, x.shape[-1])
        return torch.cat([x[:, :1], x[:, 1:].gather(1, at)], dim=1), shuffled

    model.patch_drop = drop
    pixels = pixels_of(cfg)
    wanted = theirs(model, pixels).numpy()
    model.patch_drop = None
    ours = np.asarray(jax.jit(Eva(dropping).apply)(params, pixels, SEED))
    assert distance(ours[:, 0], wanted[:, 0]) < 1e-5
    assert distance(ours[:, 1:][:, order], wanted[:, 1:]) < 1e-5


def test_what_a_picture_drops_does_not_depend_on_its_place(either):
    cfg, _, params = either
    dropping = Eva(dataclasses.replace(cfg, patch_dropout=0.5, drop_path=0.5))
    run = jax.jit(dropping.apply)
    pixels = pixels_of(cfg)
    whole = run(params, pixels, SEED)
    turned = run(params, pixels[::-1].copy(), SEED[::-1])
    np.testing.assert_allclose(turned[::-1], whole, atol=1e-6)


# Masked pictures


def test_the_mask_token_stands_in_before_positions(either):
    cfg, model, params = either
    masking = dataclasses.replace(cfg, mask_token=True)
    rng = np.random.default_rng(3)
    token = rng.normal(size=cfg.hidden_size).astype(np.float32)
    masked = rng.random((3, cfg.num_tokens)) < 0.4
    where = torch.from_numpy(masked)[..., None]
    replace = lambda _, __, x: torch.where(where, torch.from_numpy(token), x)  # noqa: E731
    hook = model.patch_embed.register_forward_hook(replace)
    pixels = pixels_of(cfg)
    wanted = theirs(model, pixels)
    hook.remove()
    embeddings = params["params"]["embeddings"] | {"mask_token": token}
    params = {"params": params["params"] | {"embeddings": embeddings}}
    run = jax.jit(lambda p, x, m: Eva(masking).apply(p, x, masked=m))
    assert distance(run(params, pixels, masked), wanted) < 1e-5
    nothing = run(params, pixels, np.zeros_like(masked))
    assert distance(nothing, theirs(model, pixels)) < 1e-5


@pytest.mark.parametrize("change", [{"mask_token": False}, {"patch_dropout": 0.5}])
def test_masks_that_the_tower_cannot_take_are_refused(change):
    cfg = dataclasses.replace(SMALL, **({"mask_token": True} | change))
    pixels = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    masked = jax.ShapeDtypeStruct((1, 16), jnp.bool_)
    init = lambda p, m: Eva(cfg).init(jax.random.key(0), p, SEED[:1], m)  # noqa: E731
    with pytest.raises(UserError, match=r"model\.vision\.mask_token=True"):
        jax.eval_shape(init, pixels, masked)


def test_a_mask_of_another_grid_is_refused():
    cfg = dataclasses.replace(SMALL, mask_token=True)
    pixels = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    masked = jax.ShapeDtypeStruct((1, 25), jnp.bool_)
    init = lambda p, m: Eva(cfg).init(jax.random.key(0), p, None, m)  # noqa: E731
    with pytest.raises(UserError, match="a mask of 25 patches; expected one of 4 x 4"):
        jax.eval_shape(init, pixels, masked)


# Gradients


@functools.partial(jax.jit, static_argnums=(0, 1))
def value_and_gradients(cfg: EvaConfig, remat: str, params: dict, pixels):
    loss = lambda p: jnp.sum(jnp.sin(Eva(cfg, remat=remat).apply(p, pixels, SEED)))  # noqa: E731
    value, grads = jax.value_and_grad(loss)(params)
    return value, tree.flatten(grads)


def test_damping_leaves_the_value_and_all_other_gradients_alone():
    cfg, _, params = made(KINDS["EVA-02 packed"])
    pixels = pixels_of(cfg)
    value, plain = value_and_gradients(cfg, "none", params, pixels)
    damped = dataclasses.replace(cfg, patch_gradient=0.1)
    same, found = value_and_gradients(damped, "none", params, pixels)
    np.testing.assert_allclose(same, value, rtol=1e-6)
    for path, g in plain.items():
        factor = 0.1 if "patch_embedding" in path else 1.0
        np.testing.assert_allclose(found[path], factor * g, rtol=1e-4, atol=1e-5, err_msg=path)


def test_remat_changes_no_gradient_and_no_name():
    cfg = dataclasses.replace(KINDS["EVA-CLIP"], drop_path=0.5, patch_dropout=0.5)
    _, _, params = made(cfg)
    _, plain = value_and_gradients(cfg, "none", params, pixels_of(cfg))
    _, saved = value_and_gradients(cfg, "full", params, pixels_of(cfg))
    assert plain.keys() == saved.keys()
    for path in plain:
        np.testing.assert_allclose(saved[path], plain[path], rtol=1e-4, atol=1e-5, err_msg=path)


def test_bfloat16_stays_bfloat16():
    cfg = dataclasses.replace(KINDS["EVA-CLIP"], layer_scale=0.5, drop_path=0.5)
    shapes = nn.unbox(init_shapes(cfg))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: 0.2 * rng.normal(size=x.shape).astype(np.float32), shapes)
    half = Eva(cfg, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    stored = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), params)
    pixels = jnp.asarray(pixels_of(cfg))
    ours = jax.jit(half.apply)({"params": stored}, pixels, SEED)
    assert ours.dtype == jnp.bfloat16
    wanted = jax.jit(Eva(cfg).apply)({"params": params}, pixels, SEED)
    assert distance(ours.astype(jnp.float32), wanted) < 0.05
    init = jax.eval_shape(half.init, jax.random.key(0), pixels)
    assert {x.dtype for x in jax.tree.leaves(init)} == {jnp.dtype(jnp.bfloat16)}


# Shapes and costs


def test_every_parameter_has_logical_axes(pair):
    cfg, *_ = pair
    masking = dataclasses.replace(cfg, mask_token=True)
    for path, leaf in tree.flatten(init_shapes(masking)).items():
        assert isinstance(leaf, nn.LogicallyPartitioned), path
        assert set(leaf.names) <= axes.ALL
        assert len(leaf.names) == len(leaf.value.shape)
        assert (leaf.names[0] == axes.LAYERS) == ("encoder/layers" in path)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_flops_are_those_of_the_program(pair, rate):
    cfg = dataclasses.replace(pair[0], patch_dropout=rate)
    pixels = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    for seed, training in ((None, False), (SEED[:1], True)):
        run = functools.partial(Eva(cfg).apply, seed=seed)
        program = jax.make_jaxpr(run)({"params": init_shapes(cfg)}, pixels)
        assert product_flops(program) == cfg.flops_per_image(training)


def test_leaving_patches_out_costs_less():
    giant = dataclasses.replace(SIZES["eva_giant_patch14_clip_224"], patch_dropout=0.5)
    assert 0.49 < giant.flops_per_image(training=True) / giant.flops_per_image() < 0.51


def test_sizes_that_cannot_work_are_refused():
    for change, message in (
        ({"num_attention_heads": 5}, "found 5; expected a divisor of hidden_size=32"),
        ({"image_size": 30}, "found 30; expected a multiple of patch_size=8"),
        ({"hidden_act": "relu"}, "expected one of .*swiglu"),
        ({"init": "zeros"}, "expected one of .*eva02"),
        ({"features": "cls"}, "expected one of"),
        ({"patch_dropout": 1.0}, "found 1.0; expected a share from 0 to below 1"),
        ({"drop_path": -0.1}, "found -0.1; expected a share"),
        (
            {"num_attention_heads": 16, "rope_grid": 4},
            "found 16; expected heads of a multiple of 4",
        ),
    ):
        with pytest.raises(UserError, match=message):
            dataclasses.replace(SMALL, **change)

"""The tower against transformers on random weights: Janus's (erf GELU) and Google's (tanh GELU)."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import SiglipVisionConfig, SiglipVisionModel
from transformers.models.janus.configuration_janus import JanusVisionConfig
from transformers.models.janus.modeling_janus import JanusVisionModel

from unijax.core import axes, tree
from unijax.core.errors import UserError
from unijax.models.siglip import SIZES, Siglip, SiglipConfig

ERF = SIZES["siglip_test"]
TANH = dataclasses.replace(ERF, hidden_act="gelu_tanh")


def reference(cfg: SiglipConfig):
    torch.manual_seed(0)
    sizes = {
        "hidden_size": cfg.hidden_size,
        "num_hidden_layers": cfg.num_hidden_layers,
        "num_attention_heads": cfg.num_attention_heads,
        "image_size": cfg.image_size,
        "patch_size": cfg.patch_size,
        "layer_norm_eps": cfg.layer_norm_eps,
    }
    if cfg.hidden_act == "gelu":
        ratio = cfg.intermediate_size / cfg.hidden_size
        model = JanusVisionModel(JanusVisionConfig(mlp_ratio=ratio, hidden_act="gelu", **sizes))
    else:
        model = SiglipVisionModel(
            SiglipVisionConfig(
                intermediate_size=cfg.intermediate_size,
                hidden_act="gelu_pytorch_tanh",
                vision_use_head=False,
                **sizes,
            )
        )
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn_like(p) * (p[0].numel() ** -0.5 if p.ndim > 1 else 0.2))
            if "norm" in name and name.endswith("weight"):
                p.add_(1.0)
    return model.eval()


def to_tree(model) -> dict:
    flat = {}
    state = {k.removeprefix("vision_model."): v.numpy() for k, v in model.state_dict().items()}
    for name, array in state.items():
        path = name.replace("out_proj", "projection_layer").replace(".", "/")
        path, leaf = path.rsplit("/", 1)
        if path == "embeddings/position_embedding":
            leaf = "embedding"
        elif path == "embeddings/patch_embedding" and leaf == "weight":
            leaf, array = "kernel", array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0])
        elif leaf == "weight":
            leaf, array = ("kernel", array.T) if array.ndim == 2 else ("scale", array)
        parts = path.split("/")
        if parts[:2] == ["encoder", "layers"]:
            layer = int(parts.pop(2))
            flat.setdefault("/".join([*parts, leaf]), {})[layer] = array
        else:
            flat[f"{path}/{leaf}"] = array
    stacked = {
        k: np.stack([v[i] for i in range(len(v))]) if isinstance(v, dict) else v
        for k, v in flat.items()
    }
    return {"params": tree.unflatten(stacked)}


def init_shapes(cfg: SiglipConfig) -> dict:
    pixels = jnp.zeros((1, cfg.image_size, cfg.image_size, 3))
    return jax.eval_shape(Siglip(cfg).init, jax.random.key(0), pixels)


def random_pixels(cfg: SiglipConfig) -> np.ndarray:
    shape = (2, cfg.image_size, cfg.image_size, 3)
    return np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)


def assert_close(ours, theirs, tolerance=1e-5):
    theirs = np.asarray(theirs)
    assert np.abs(np.asarray(ours) - theirs).max() <= tolerance * np.abs(theirs).max()


@pytest.fixture(scope="module", params=[ERF, TANH], ids=lambda c: c.hidden_act)
def pair(request):
    cfg = request.param
    model = reference(cfg)
    params, pixels = to_tree(model), random_pixels(cfg)
    shapes = {k: v.shape for k, v in tree.flatten(params).items()}
    assert shapes == {k: v.shape for k, v in tree.flatten(nn.unbox(init_shapes(cfg))).items()}
    with torch.no_grad():
        x = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
        caught = []
        tower = getattr(model, "vision_model", model)
        hook = tower.post_layernorm.register_forward_pre_hook(lambda _, a: caught.append(a[0]))
        after = model(x).last_hidden_state
        hook.remove()
    return cfg, params, pixels, caught[0], after


def test_features_after_the_last_norm_equal_the_reference(pair):
    cfg, params, pixels, _, after = pair
    ours = jax.jit(Siglip(cfg).apply)(params, pixels)
    assert ours.shape == (2, cfg.num_tokens, cfg.hidden_size)
    assert_close(ours, after)


def test_features_before_the_last_norm_equal_the_reference(pair):
    cfg, params, pixels, before, _ = pair
    cfg = dataclasses.replace(cfg, features="pre_norm")
    layers = {k: v for k, v in params["params"].items() if k != "post_layernorm"}
    assert_close(jax.jit(Siglip(cfg).apply)({"params": layers}, pixels), before)


def test_the_two_activations_are_told_apart(pair):
    # Their difference must not hide below the tolerance of the tests above.
    cfg, params, pixels, _, after = pair
    other = ERF if cfg == TANH else TANH
    with pytest.raises(AssertionError):
        assert_close(jax.jit(Siglip(other).apply)(params, pixels), after)


def test_remat_changes_no_gradient_and_no_name():
    params, pixels = to_tree(reference(ERF)), jnp.asarray(random_pixels(ERF))

    def grads(remat):
        loss = lambda p: jnp.sum(jnp.sin(Siglip(ERF, remat=remat).apply(p, pixels)))  # noqa: E731
        return tree.flatten(jax.jit(jax.grad(loss))(params))

    plain = grads("none")
    for remat in ("dots", "full"):
        saved = grads(remat)
        assert plain.keys() == saved.keys()
        for path in plain:
            np.testing.assert_allclose(saved[path], plain[path], rtol=1e-4, atol=1e-5)


def test_bfloat16_stays_bfloat16():
    half = Siglip(ERF, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    params, pixels = to_tree(reference(ERF)), random_pixels(ERF)
    stored = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), params)
    ours = jax.jit(half.apply)(stored, pixels)
    assert ours.dtype == jnp.bfloat16
    assert_close(ours.astype(jnp.float32), jax.jit(Siglip(ERF).apply)(params, pixels), 0.05)
    init = jax.eval_shape(half.init, jax.random.key(0), pixels)
    assert {x.dtype for x in jax.tree.leaves(init)} == {jnp.dtype(jnp.bfloat16)}


def test_large_patch16_384_is_the_published_size():
    cfg = SIZES["siglip_large_patch16_384"]
    assert cfg.count_parameters() == 303_688_704
    assert cfg.num_tokens == 576


@pytest.mark.parametrize(
    "cfg", [*SIZES.values(), dataclasses.replace(ERF, features="pre_norm")], ids=[*SIZES, "pre"]
)
def test_parameters_are_counted_exactly(cfg):
    whole = sum(math.prod(x.shape) for x in jax.tree.leaves(init_shapes(cfg)))
    assert cfg.count_parameters() == whole


def test_flops_are_those_of_the_program():
    # One layer and fewer tokens than a block of attention, because XLA counts the body of a loop
    # once; elementwise work is a few per cent.
    cfg = SiglipConfig(
        image_size=56, patch_size=8, hidden_size=256, intermediate_size=1024,
        num_hidden_layers=1, num_attention_heads=2,
    )  # fmt: skip
    pixels = jax.ShapeDtypeStruct((1, 56, 56, 3), jnp.float32)
    lowered = jax.jit(Siglip(cfg).apply).lower(init_shapes(cfg), pixels)
    assert lowered.cost_analysis()["flops"] == pytest.approx(cfg.flops_per_image(), rel=0.05)


def test_every_parameter_has_logical_axes():
    boxed = lambda x: isinstance(x, nn.LogicallyPartitioned)  # noqa: E731
    for path, leaf in tree.flatten(init_shapes(ERF)).items():
        assert boxed(leaf), path
        assert set(leaf.names) <= axes.ALL
        assert len(leaf.names) == len(leaf.value.shape)
        assert (leaf.names[0] == axes.LAYERS) == ("encoder/layers" in path)


def test_sizes_that_cannot_work_are_refused():
    with pytest.raises(UserError, match="found 5; expected a divisor of hidden_size=32"):
        dataclasses.replace(ERF, num_attention_heads=5)
    with pytest.raises(UserError, match="found 30; expected a multiple of patch_size=8"):
        dataclasses.replace(ERF, image_size=30)
    with pytest.raises(UserError, match="expected one of \\['gelu', 'gelu_tanh'\\]"):
        dataclasses.replace(ERF, hidden_act="relu")

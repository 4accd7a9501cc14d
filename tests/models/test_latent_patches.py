"""Linear patches of latents: their order, their inverse, the timestep and published counts."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.walk import product_flops
from unijax.core import axes
from unijax.core.errors import UserError
from unijax.models.latent_patches import LatentPatches, LatentPatchesConfig

SMALL = LatentPatchesConfig(latent_size=8, latent_channels=3)
WIDTH = 16
# Parameters beside those of the transformer, in percent of it (arXiv 2408.11039, table 7).
TRANSFORMERS = {768: 162.4e6, 1024: 373.9e6, 1536: 777.9e6, 2048: 1364.3e6, 4096: 6738.4e6}
EXTRA = {768: 0.5, 1024: 0.4, 1536: 0.4, 2048: 0.4, 4096: 0.3}


def init_shapes(cfg, width=WIDTH, **kinds):
    x = jnp.zeros((1, cfg.latent_size, cfg.latent_size, cfg.latent_channels))
    return jax.eval_shape(
        LatentPatches(cfg, width, **kinds).init, jax.random.key(0), x, jnp.zeros(1)
    )["params"]


def random_params(cfg):
    rng = np.random.default_rng(0)
    shapes = nn.unbox(init_shapes(cfg))
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype("f4"), shapes)


@pytest.mark.parametrize("site", ["token", "patch"])
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_tokens_are_what_they_say(size, site):
    cfg = dataclasses.replace(SMALL, patch_size=size, t_embed_site=site)
    params = random_params(cfg)
    x = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype("f4")
    timestep = np.array([0.0, 500.0], "f4")
    model = LatentPatches(cfg, WIDTH)
    run = jax.jit(lambda p, x, t: model.apply({"params": p}, x, t, method="down")[0])
    tokens = run(params, x, timestep)
    assert tokens.shape == (2, cfg.num_tokens, WIDTH)

    angle = timestep[:, None] * 10_000.0 ** (-np.arange(128) / 128)
    h = np.concatenate([np.cos(angle), np.sin(angle)], -1)
    one, two = params["time_embedding"]["linear_1"], params["time_embedding"]["linear_2"]
    h = h @ one["kernel"] + one["bias"]
    time = h / (1 + np.exp(-h)) @ two["kernel"] + two["bias"]
    kernel, bias = params["proj_in"]["kernel"], params["proj_in"]["bias"]
    rows = 8 // size
    for picture, token in np.ndindex(2, cfg.num_tokens):
        row, column = divmod(token, rows)
        patch = x[picture, row * size : (row + 1) * size, column * size : (column + 1) * size]
        patch = patch.reshape(-1)
        if site == "patch":
            expected = (patch + time[picture]) @ kernel + bias
        else:
            expected = patch @ kernel + bias + time[picture]
        np.testing.assert_allclose(tokens[picture, token], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_up_undoes_down_where_the_matrices_do(size):
    cfg = dataclasses.replace(SMALL, patch_size=size)
    params = random_params(cfg)
    width = cfg.patch_width
    model = LatentPatches(cfg, width)
    params["proj_in"] = {"kernel": np.eye(width, dtype="f4"), "bias": np.zeros(width, "f4")}
    params["proj_out"] = params["proj_in"]
    shapes = nn.unbox(init_shapes(cfg, width))["time_embedding"]
    params["time_embedding"] = jax.tree.map(lambda s: np.zeros(s.shape, "f4"), shapes)
    x = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype("f4")
    out = jax.jit(model.apply)({"params": params}, x, np.zeros(2, "f4"))
    np.testing.assert_array_equal(out, x)


@pytest.mark.parametrize("width", TRANSFORMERS)
def test_extra_parameters_are_the_published_share(width):
    count = sum(
        math.prod(s.shape) for s in jax.tree.leaves(init_shapes(LatentPatchesConfig(), width))
    )
    assert round(100 * count / TRANSFORMERS[width], 1) == EXTRA[width]


def test_flops_are_those_of_the_program():
    for site in ("token", "patch"):
        cfg = dataclasses.replace(SMALL, t_embed_site=site)
        x, timestep = jnp.zeros((1, 8, 8, 3)), jnp.zeros(1)
        jaxpr = jax.make_jaxpr(LatentPatches(cfg, WIDTH).apply)(
            {"params": nn.unbox(init_shapes(cfg))}, x, timestep
        )
        assert product_flops(jaxpr) == cfg.flops_per_image(WIDTH)


def test_half_precision_and_logical_axes():
    half = {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16}
    shapes = init_shapes(SMALL, **half)
    is_box = lambda x: isinstance(x, nn.LogicallyPartitioned)  # noqa: E731
    for leaf in jax.tree.leaves(shapes, is_leaf=is_box):
        assert axes.ALL.issuperset(leaf.names)
        assert len(leaf.names) == len(leaf.value.shape)
        assert leaf.value.dtype == jnp.bfloat16
    model = LatentPatches(SMALL, WIDTH, **half)
    x, timestep = jnp.zeros((1, 8, 8, 3)), jnp.zeros(1)
    tokens, _ = jax.eval_shape(
        lambda p: model.apply({"params": p}, x, timestep, method="down"), nn.unbox(shapes)
    )
    assert tokens.dtype == jnp.bfloat16
    out = jax.eval_shape(lambda p: model.apply({"params": p}, x, timestep), nn.unbox(shapes))
    assert out.dtype == jnp.float32


def test_patches_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="patch_size: found 3; expected a divisor of latent_size=8"):
        dataclasses.replace(SMALL, patch_size=3)
    with pytest.raises(UserError, match="found 0; expected a divisor"):
        dataclasses.replace(SMALL, patch_size=0)
    with pytest.raises(UserError, match=r"t_embed_site: found 'both'; expected one of"):
        dataclasses.replace(SMALL, t_embed_site="both")

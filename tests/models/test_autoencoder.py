"""The KL autoencoder against diffusers' `AutoencoderKL` on random weights, and its own rules."""

import dataclasses
import json
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.latent_oracles import diffusers
from tests.walk import product_flops
from tests.weights import distance, randomise
from unijax.core import axes
from unijax.core.errors import UserError
from unijax.interop import diffusers_parts
from unijax.interop.diffusers_configs import config_json
from unijax.interop.table import foreign_shapes
from unijax.models.autoencoder import SIZES, AutoencoderConfig, AutoencoderKL, Posterior

SMALL = SIZES["kl_test"]
KINDS = {
    "4 channels": SMALL,
    "8 channels, three levels, bare": dataclasses.replace(
        SMALL, latent_channels=8, block_out_channels=(32, 32, 64), layers_per_block=2,
        use_quant_conv=False, use_post_quant_conv=False,
    ),
}  # fmt: skip
# Of diffusers' network.
PUBLISHED = {"sd_vae": 83_653_863, "transfusion_vae": 83_709_419}


def reference(cfg: AutoencoderConfig) -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL.from_config(config_json(cfg))


def init_shapes(cfg: AutoencoderConfig, **kinds) -> dict:
    pixels, seed = jnp.zeros((1, cfg.image_size, cfg.image_size, 3)), jnp.zeros(1, jnp.uint32)
    return jax.eval_shape(AutoencoderKL(cfg, **kinds).init, jax.random.key(0), pixels, seed)


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):
    """Config, the reference, its input, and what ours makes of it."""
    cfg = KINDS[request.param]
    theirs = randomise(reference(cfg))
    directory = tmp_path_factory.mktemp("vae") / "vae"
    theirs.save_pretrained(directory)
    read, params = diffusers_parts.read(directory)
    assert read == cfg
    rng = np.random.default_rng(1)
    pixels = rng.uniform(-1, 1, (2, cfg.image_size, cfg.image_size, 3)).astype(np.float32)
    latents = rng.normal(size=(2, cfg.grid, cfg.grid, cfg.latent_channels)).astype(np.float32)

    @jax.jit
    def run(params, pixels, latents, seed):
        model, params = AutoencoderKL(cfg), {"params": params}
        posterior = model.apply(params, pixels, method="encode")
        drawn = posterior.sample(seed)
        return {
            "posterior": posterior,
            "drawn": drawn,
            "decoded": model.apply(params, latents, method="decode"),
            "again": model.apply(params, drawn, method="decode"),
            "trained": model.apply(params, pixels, seed),
        }

    seed = jnp.array([5, 6], jnp.uint32)
    return cfg, theirs, pixels, latents, run(params, pixels, latents, seed)


def to_torch(x):
    return torch.from_numpy(x.transpose(0, 3, 1, 2).copy())


def test_the_posterior_is_that_of_the_reference(pair):
    _, theirs, pixels, _, ours = pair
    with torch.no_grad():
        posterior = theirs.encode(to_torch(pixels)).latent_dist
    assert distance(ours["posterior"].mean, posterior.mean.permute(0, 2, 3, 1)) <= 1e-5
    log_variance = posterior.logvar.permute(0, 2, 3, 1)
    assert distance(ours["posterior"].log_variance, log_variance) <= 1e-5
    assert distance(ours["posterior"].kl(), posterior.kl()) <= 1e-5


def test_decoded_pixels_are_those_of_the_reference(pair):
    _, theirs, _, latents, ours = pair
    with torch.no_grad():
        pixels = theirs.decode(to_torch(latents)).sample.permute(0, 2, 3, 1)
    assert distance(ours["decoded"], pixels) <= 1e-5


def test_a_training_pass_is_encode_sample_decode(pair):
    *_, ours = pair
    pixels, posterior = ours["trained"]
    assert distance(pixels, ours["again"]) <= 1e-5
    assert distance(posterior.mean, ours["posterior"].mean) <= 1e-5


def test_latents_are_drawn_from_the_posterior_by_the_seed_of_the_picture():
    mean = jnp.full((4000, 1, 1, 2), 3.0)
    posterior = Posterior(mean, jnp.full_like(mean, 2 * np.log(0.5)))
    drawn = posterior.sample(jnp.arange(4000, dtype=jnp.uint32))
    np.testing.assert_allclose(jnp.mean(drawn, 0), 3.0, atol=0.03)
    np.testing.assert_allclose(jnp.std(drawn, 0), 0.5, atol=0.02)
    alone = Posterior(mean[7:8], posterior.log_variance[7:8]).sample(jnp.array([7], jnp.uint32))
    np.testing.assert_array_equal(alone[0], drawn[7])
    # As a cache keeps it, in rows of several pictures.
    rows = Posterior.of(posterior.moments()[:6].reshape(2, 3, 1, 1, 4))
    again = rows.sample(jnp.arange(6, dtype=jnp.uint32).reshape(2, 3))
    np.testing.assert_array_equal(again.reshape(6, 1, 1, 2), drawn[:6])
    np.testing.assert_array_equal(rows.kl().ravel(), posterior.kl()[:6])


def test_log_variances_are_held_where_they_cannot_overflow():
    posterior = Posterior.of(jnp.stack([jnp.full((1, 2, 2, 4), x) for x in (200.0, -200.0)]))
    np.testing.assert_array_equal(np.unique(posterior.log_variance), [-30, 20])
    assert posterior.mean.shape == (2, 1, 2, 2, 2)
    assert np.isfinite(np.asarray(posterior.kl())).all()


def test_a_written_directory_loads_into_diffusers(pair, tmp_path):
    cfg, theirs, *_ = pair
    theirs.save_pretrained(tmp_path / "in")
    _, params = diffusers_parts.read(tmp_path / "in")
    diffusers_parts.write(tmp_path / "out", cfg, params)
    back, info = diffusers.AutoencoderKL.from_pretrained(
        tmp_path / "out", output_loading_info=True, low_cpu_mem_usage=False
    )
    assert not any(info.values()), info
    for (name, a), (_, b) in zip(theirs.state_dict().items(), back.state_dict().items()):
        assert torch.equal(a, b), name
    assert {k: v for k, v in back.config.items() if k[0] != "_"} == {
        k: v for k, v in theirs.config.items() if k[0] != "_"
    }


def test_the_names_that_attention_had_until_2023_are_read(tmp_path):
    theirs = randomise(reference(SMALL))
    theirs.save_pretrained(tmp_path / "new")
    _, expected = diffusers_parts.read(tmp_path / "new")
    theirs.save_pretrained(tmp_path / "old")
    words = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    former = {
        re.sub("|".join(words), lambda m: words[m[0]], name): x.contiguous()
        for name, x in theirs.state_dict().items()
    }
    assert "encoder.mid_block.attentions.0.query.weight" in former
    save_file(former, tmp_path / "old" / "diffusion_pytorch_model.safetensors")
    # diffusers itself takes these names for the same weights.
    again = diffusers.AutoencoderKL.from_pretrained(tmp_path / "old", low_cpu_mem_usage=False)
    assert torch.equal(
        again.encoder.mid_block.attentions[0].to_q.weight,
        theirs.encoder.mid_block.attentions[0].to_q.weight,
    )
    _, found = diffusers_parts.read(tmp_path / "old")
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_channels": 8}, r"quant_conv.bias \[8\] instead of \[16\]"),
        ({"mid_block_add_attention": False}, "mid_block_add_attention: found False; expected True"),
        ({"norm_type": "spatial"}, "norm_type: found 'spatial'; expected None"),
        ({"block_out_channels": "wide"}, "block_out_channels: found 'wide'; expected a list of"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 2}, "found .*AttnDownEncoderBlock2D"),
        ({"_class_name": "AutoencoderTiny"}, "found .*'AutoencoderTiny'; expected one of"),
    ],
)
def test_a_directory_of_another_network_is_refused(tmp_path, change, message):
    directory = tmp_path / "vae"
    reference(SMALL).save_pretrained(directory)
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        diffusers_parts.read(directory)


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes_have_the_published_counts(size):
    cfg = SIZES[size]
    with torch.device("meta"):
        theirs = reference(cfg)
    table = diffusers_parts.table(cfg)
    expected = {n: tuple(p.shape) for n, p in theirs.state_dict().items()}
    assert foreign_shapes(table, diffusers_parts.shapes(cfg)) == expected
    assert sum(p.numel() for p in theirs.parameters()) == PUBLISHED[size]
    assert cfg.count_parameters() == PUBLISHED[size]


def test_flops_are_those_of_the_program():
    for cfg in KINDS.values():
        params = nn.unbox(init_shapes(cfg))

        def counted(method, *shape, cfg=cfg, params=params):
            apply = lambda p, x: AutoencoderKL(cfg).apply(p, x, method=method)  # noqa: E731
            return product_flops(jax.make_jaxpr(apply)(params, jnp.zeros(shape)))

        side = cfg.image_size
        assert counted("encode", 1, side, side, 3) == cfg.encode_flops_per_image()
        latents = counted("decode", 1, cfg.grid, cfg.grid, cfg.latent_channels)
        assert latents == cfg.decode_flops_per_image()


def test_scales_are_inverses():
    cfg = dataclasses.replace(SMALL, scaling_factor=1.5305, shift_factor=0.0609)
    latents = jax.random.normal(jax.random.key(0), (2, 4, 4, 4))
    scaled = cfg.scaled(latents)
    np.testing.assert_allclose(scaled, (latents - 0.0609) * 1.5305, rtol=1e-5)
    np.testing.assert_allclose(cfg.unscaled(scaled), latents, atol=1e-5)


def test_bfloat16_runs_in_bfloat16_and_its_distribution_in_float32():
    half = {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16}
    shapes = init_shapes(SMALL, **half)
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.bfloat16)}
    pixels, seed = jnp.zeros((1, 16, 16, 3)), jnp.zeros(1, jnp.uint32)
    jaxpr = jax.make_jaxpr(AutoencoderKL(SMALL, **half).apply)(nn.unbox(shapes), pixels, seed)
    kinds = {
        v.aval.dtype
        for e in jaxpr.jaxpr.eqns
        if e.primitive.name == "conv_general_dilated"
        for v in e.invars
    }
    assert kinds == {jnp.dtype(jnp.bfloat16)}
    assert {a.dtype for a in jaxpr.out_avals} == {jnp.dtype(jnp.float32)}


def test_every_parameter_has_logical_axes():
    is_box = lambda x: isinstance(x, nn.LogicallyPartitioned)  # noqa: E731
    for leaf in jax.tree.leaves(init_shapes(SMALL), is_leaf=is_box):
        assert is_box(leaf)
        assert axes.ALL.issuperset(leaf.names)
        assert len(leaf.names) == len(leaf.value.shape)


def test_sizes_that_cannot_work_are_refused():
    with pytest.raises(UserError, match="a level of 48 channels; expected a multiple of 32"):
        AutoencoderConfig(block_out_channels=(48, 96))
    with pytest.raises(UserError, match="found 260; expected a multiple of 8"):
        AutoencoderConfig(image_size=260)
    with pytest.raises(UserError, match="layers_per_block: found 0; expected at least 1"):
        AutoencoderConfig(layers_per_block=0)
    with pytest.raises(UserError, match=r"scaling_factor: found 0.0; expected a positive number"):
        AutoencoderConfig(scaling_factor=0.0)

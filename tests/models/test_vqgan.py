"""The tokenizer against transformers' `JanusVQVAE` on random weights, and its own rules."""

import dataclasses
import functools
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.janus.configuration_janus import JanusVQVAEConfig
from transformers.models.janus.modeling_janus import JanusVQVAE

from tests.latent_oracles import diffusers
from unijax.core import axes, tree
from unijax.core.errors import UserError
from unijax.interop import diffusers_parts
from unijax.models.vqgan import SIZES, VQGAN, VQConfig

# Every construct of VQ-16 (a level without change of channels, one with, two blocks a level).
THREE_LEVELS = VQConfig(
    image_size=16, base_channels=32, channel_multiplier=(1, 1, 2), latent_channels=16,
    num_embeddings=96,
)  # fmt: skip


def reference(cfg: VQConfig) -> JanusVQVAE:
    torch.manual_seed(0)
    model = JanusVQVAE(
        JanusVQVAEConfig(
            base_channels=cfg.base_channels,
            channel_multiplier=list(cfg.channel_multiplier),
            num_res_blocks=cfg.num_res_blocks,
            latent_channels=cfg.latent_channels,
            embed_dim=cfg.embed_dim,
            num_embeddings=cfg.num_embeddings,
            num_patches=cfg.grid,
        )
    ).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            fan_in = p[0].numel() if p.ndim > 1 and "embedding" not in name else 1
            p.copy_(torch.randn_like(p) * (0.2 if p.ndim == 1 else fan_in**-0.5))
            if "norm" in name and name.endswith("weight"):
                p.add_(1.0)
    return model


def to_tree(model: JanusVQVAE) -> dict:
    """The documented table of names, applied."""
    flat = {}
    for name, p in model.state_dict().items():
        array = p.numpy()
        path = re.sub(r"\b(down|up)\.(\d+)", r"\1_\2", name)
        path = re.sub(r"(_\d+)\.(block|attn)\.(\d+)", r"\1.\2_\3", path)
        path, leaf = path.replace(".", "/").rsplit("/", 1)
        if path == "quantize/embedding":
            flat[path] = array
        elif array.ndim == 4:
            flat[f"{path}/kernel"] = array.transpose(2, 3, 1, 0)
        elif leaf == "weight":
            flat[f"{path}/scale"] = array
        else:
            flat[f"{path}/bias"] = array
    return {"params": tree.unflatten(flat)}


def init_shapes(cfg: VQConfig) -> dict:
    pixels = jnp.zeros((1, cfg.image_size, cfg.image_size, 3))
    return jax.eval_shape(VQGAN(cfg).init, jax.random.key(0), pixels)


def assert_close(ours, theirs, tolerance=1e-5):
    theirs = np.asarray(theirs)
    assert np.abs(np.asarray(ours) - theirs).max() <= tolerance * np.abs(theirs).max()


@pytest.fixture(scope="module", params=[SIZES["vq_test"], THREE_LEVELS], ids=["two", "three"])
def pair(request):
    """Config, the reference, its input, and all that ours makes of it."""
    cfg = request.param
    theirs = reference(cfg)
    params = to_tree(theirs)
    init = nn.unbox(init_shapes(cfg))
    assert {k: v.shape for k, v in tree.flatten(params).items()} == {
        k: v.shape for k, v in tree.flatten(init).items()
    }
    rng = np.random.default_rng(1)
    pixels = rng.uniform(-1, 1, (2, cfg.image_size, cfg.image_size, 3)).astype(np.float32)
    codes = rng.integers(0, cfg.num_embeddings, (2, cfg.num_tokens))

    @jax.jit
    def run(params, pixels, codes):
        method = lambda x, name: VQGAN(cfg).apply(params, x, method=name)  # noqa: E731
        encoded = method(pixels, "encode")
        return {
            "latents": method(pixels, "encode_latents"),
            "codes": encoded,
            "decoded": method(codes, "decode"),
            "again": method(encoded, "decode"),
            "trained": VQGAN(cfg).apply(params, pixels),
        }

    return cfg, theirs, pixels, codes, run(params, pixels, codes)


def theirs_latents(model, pixels):
    with torch.no_grad():
        x = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
        return model.quant_conv(model.encoder(x)).permute(0, 2, 3, 1).flatten(1, 2)


def test_latents_before_quantisation_equal_the_reference(pair):
    _, theirs, pixels, _, ours = pair
    assert_close(ours["latents"], theirs_latents(theirs, pixels))


def test_codes_equal_the_normalised_reference(pair):
    # transformers' encode leaves out the normalisation that the released model was trained with.
    # Given unit vectors on both sides its own quantiser is the right one.
    cfg, theirs, pixels, _, ours = pair
    unit = torch.nn.functional.normalize
    with torch.no_grad():
        z = unit(theirs_latents(theirs, pixels), dim=-1)
        theirs.quantize.embedding.weight.copy_(unit(theirs.quantize.embedding.weight, dim=-1))
        _, _, ids = theirs.quantize(z.unflatten(1, (cfg.grid, cfg.grid)).permute(0, 3, 1, 2))
        two = torch.cdist(z, theirs.quantize.embedding.weight).topk(2, largest=False).values
    assert (two[..., 1] - two[..., 0]).min() > 1e-5, "a tie: change the seed"
    assert len(np.unique(ids)) > 4
    np.testing.assert_array_equal(np.asarray(ours["codes"]).ravel(), ids)
    assert ours["codes"].shape == (2, cfg.num_tokens)
    assert ours["codes"].dtype == jnp.int32


def test_decoded_pixels_equal_the_reference(pair):
    _, theirs, _, codes, ours = pair
    with torch.no_grad():
        pixels = theirs.decode(torch.from_numpy(codes)).permute(0, 2, 3, 1)
    assert_close(ours["decoded"], pixels)


def test_training_pass_reconstructs_what_encode_and_decode_do(pair):
    *_, ours = pair
    np.testing.assert_array_equal(ours["trained"].codes, ours["codes"])
    assert_close(ours["trained"].pixels, ours["again"])
    assert_close(ours["trained"].codebook_loss, ours["trained"].commitment_loss)


def test_gradients_of_the_training_pass_go_where_they_should():
    cfg = SIZES["vq_test"]
    params = to_tree(reference(cfg))
    pixels = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3), minval=-1.0)

    @jax.jit
    def largest(params, weights):
        def loss(params):
            out = VQGAN(cfg).apply(params, pixels)
            picture = jnp.sum((out.pixels - pixels) ** 2)
            return weights @ jnp.stack(
                [picture, out.codebook_loss.sum(), out.commitment_loss.sum()]
            )

        return jax.tree.map(lambda g: jnp.abs(g).max(), jax.grad(loss)(params))

    def grads(*weights):
        return tree.flatten(jax.device_get(largest(params, jnp.array(weights)))["params"])

    picture, codebook, commitment = grads(1.0, 0, 0), grads(0, 1.0, 0), grads(0, 0, 1.0)
    # Straight-through: the picture trains both networks, never the table.
    assert picture["encoder/conv_in/kernel"] > 0
    assert picture["decoder/conv_out/kernel"] > 0
    assert picture["quantize/embedding"] == 0
    assert {k for k, g in codebook.items() if g > 0} == {"quantize/embedding"}
    assert commitment["encoder/conv_in/kernel"] > 0
    assert commitment["quantize/embedding"] == 0
    assert commitment["decoder/conv_out/kernel"] == 0


def test_bfloat16_runs_in_bfloat16():
    cfg = SIZES["vq_test"]
    params = to_tree(reference(cfg))
    stored = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), params)
    pixels = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3), minval=-1.0)
    half = VQGAN(cfg, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)

    def run(model):
        return jax.jit(lambda p: model.apply(p, pixels, method="encode_latents"))

    z16, z32 = run(half)(stored), run(VQGAN(cfg))(params)
    assert z16.dtype == jnp.bfloat16
    assert_close(z16.astype(jnp.float32), z32, tolerance=0.1)
    convolutions = [
        e
        for e in jax.make_jaxpr(half.apply)(stored, pixels).jaxpr.eqns
        if e.primitive.name == "conv_general_dilated"
    ]
    assert convolutions
    assert all(v.aval.dtype == jnp.bfloat16 for e in convolutions for v in e.invars)
    out, init = jax.eval_shape(half.init_with_output, jax.random.key(0), pixels)
    assert out.pixels.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(init)} == {jnp.dtype(jnp.bfloat16)}


def test_vq_16_is_the_published_size():
    init = init_shapes(SIZES["vq_16"])
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(init)) == 71_883_403
    cfg = SIZES["vq_16"]
    assert (cfg.downsampling, cfg.num_tokens, cfg.num_embeddings) == (16, 576, 16384)


@pytest.mark.parametrize("cfg", [*SIZES.values(), THREE_LEVELS], ids=[*SIZES, "three_levels"])
def test_parameters_are_counted_exactly(cfg):
    whole = sum(math.prod(x.shape) for x in jax.tree.leaves(init_shapes(cfg)))
    assert cfg.count_parameters() == whole


def test_flops_are_those_of_the_program():
    # XLA counts elementwise work too: a few per cent at this width.
    cfg = VQConfig(image_size=64, base_channels=64, channel_multiplier=(1, 2), num_embeddings=256)
    params = init_shapes(cfg)
    pixels = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    codes = jax.ShapeDtypeStruct((1, cfg.num_tokens), jnp.int32)

    def counted(method, x):
        lowered = jax.jit(lambda p, x: VQGAN(cfg).apply(p, x, method=method)).lower(params, x)
        return lowered.cost_analysis()["flops"]

    assert counted("encode", pixels) == pytest.approx(cfg.encode_flops_per_image(), rel=0.05)
    assert counted("decode", codes) == pytest.approx(cfg.decode_flops_per_image(), rel=0.05)


def test_every_parameter_has_logical_axes():
    for leaf in jax.tree.leaves(
        init_shapes(SIZES["vq_test"]), is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)
    ):
        assert isinstance(leaf, nn.LogicallyPartitioned)
        assert set(leaf.names) <= axes.ALL
        assert len(leaf.names) == len(leaf.value.shape)


def test_sizes_that_cannot_work_are_refused():
    with pytest.raises(UserError, match="a level of 48 channels; expected a multiple of 32"):
        VQConfig(base_channels=48)
    with pytest.raises(UserError, match="found 40; expected a multiple of 16"):
        dataclasses.replace(SIZES["vq_16"], image_size=40)


DISTANCE = dataclasses.replace(THREE_LEVELS, embed_dim=6, coarse_attention=False, unit_codes=False)


def test_with_codes_by_distance_it_equals_diffusers():
    """Chameleon's kind, of taming-transformers: diffusers' `VQModel` is that network."""
    cfg, levels = DISTANCE, len(DISTANCE.channel_multiplier)
    theirs = diffusers.VQModel(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=cfg.level_channels,
        layers_per_block=cfg.num_res_blocks,
        latent_channels=cfg.latent_channels,
        num_vq_embeddings=cfg.num_embeddings,
        vq_embed_dim=cfg.embed_dim,
    ).eval()
    model = VQGAN(cfg)
    rng = np.random.default_rng(0)
    boxed = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    flat, state = {}, {}
    for path, like in tree.flatten(nn.unbox(boxed)).items():
        x = rng.standard_normal(like.shape, np.float32)
        x = x * np.prod(like.shape[:-1]) ** -0.5 if path.endswith("kernel") else x
        flat[path] = 1 + 0.2 * x if path.endswith("scale") else x
    for entry in diffusers_parts.entries("AutoencoderKL", {p: x.shape for p, x in flat.items()}):
        (ours,) = entry.ours
        name = entry.theirs
        if ours == "quantize/embedding":
            name, x = "quantize.embedding.weight", flat[ours]
        else:
            x = entry.to_theirs([flat[ours]])
        state[name] = torch.from_numpy(np.ascontiguousarray(x))
    theirs.load_state_dict(state)
    params = jax.tree.map(jnp.asarray, {"params": tree.unflatten(flat)})
    apply = functools.partial(model.apply, params)
    pixels = rng.uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    codes = rng.integers(0, cfg.num_embeddings, (2, cfg.num_tokens))
    with torch.no_grad():
        latents = theirs.encode(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).latents
        indices = theirs.quantize(latents)[2][2].reshape(2, -1)
        shape = (2, cfg.grid, cfg.grid, cfg.embed_dim)
        rows = theirs.quantize.get_codebook_entry(torch.from_numpy(codes).reshape(-1), shape)
        decoded = theirs.decoder(theirs.post_quant_conv(rows)).permute(0, 2, 3, 1).numpy()
    latents = latents.permute(0, 2, 3, 1).flatten(1, 2).numpy()
    found = apply(jnp.asarray(pixels), method="encode_latents")
    np.testing.assert_allclose(found, latents, atol=1e-5 * np.abs(latents).max())
    np.testing.assert_array_equal(apply(jnp.asarray(pixels), method="encode"), indices)
    found = apply(jnp.asarray(codes), method="decode")
    np.testing.assert_allclose(found, decoded, atol=1e-4 * np.abs(decoded).max())


def test_options_of_taming_count_their_parameters():
    boxed = jax.eval_shape(VQGAN(DISTANCE).init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    count = sum(math.prod(x.shape) for x in jax.tree.leaves(nn.unbox(boxed)))
    assert count == DISTANCE.count_parameters()

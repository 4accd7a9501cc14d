"""DC-AE against diffusers' `AutoencoderDC` on random weights."""

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
from tests.weights import distance, randomise
from unijax.core import axes
from unijax.core.errors import UserError
from unijax.interop import diffusers_parts
from unijax.interop.diffusers_configs import config_json
from unijax.interop.table import foreign_shapes
from unijax.models.dc_autoencoder import SIZES, AutoencoderDC, DCAutoencoderConfig

SMALL = SIZES["dc_ae_test"]
PUBLISHED = {"dc_ae_f32c32": 312_250_275}  # of diffusers' network


def reference(cfg: DCAutoencoderConfig) -> diffusers.AutoencoderDC:
    return diffusers.AutoencoderDC.from_config(config_json(cfg))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The reference and our parameters."""
    theirs = randomise(reference(SMALL))
    directory = tmp_path_factory.mktemp("dc") / "dc"
    theirs.save_pretrained(directory)
    read, params = diffusers_parts.read(directory)
    assert dataclasses.replace(read, image_size=SMALL.image_size) == SMALL
    return theirs, params


def to_torch(x):
    return torch.from_numpy(x.transpose(0, 3, 1, 2).copy())


# With more positions than a head is wide, and with fewer: diffusers then multiplies otherwise.
@pytest.mark.parametrize(("height", "width"), [(32, 16), (8, 4)])
def test_equal_to_the_reference(pair, height, width):
    theirs, params = pair
    rng = np.random.default_rng(1)
    pixels = rng.uniform(-1, 1, (2, height, width, 3)).astype("f4")
    latents = rng.normal(size=(2, height // 4, width // 4, 8)).astype("f4")
    run = lambda x, method: jax.jit(  # noqa: E731
        lambda p, x: AutoencoderDC(SMALL).apply({"params": p}, x, method=method)
    )(params, x)
    with torch.no_grad():
        encoded = theirs.encode(to_torch(pixels)).latent.permute(0, 2, 3, 1)
        decoded = theirs.decode(to_torch(latents)).sample.permute(0, 2, 3, 1)
    assert distance(run(pixels, "encode"), encoded) <= 1e-5
    assert distance(run(latents, "decode"), decoded) <= 1e-5


def test_a_written_directory_loads_into_diffusers(pair, tmp_path):
    theirs, params = pair
    diffusers_parts.write(tmp_path / "out", SMALL, params)
    back, info = diffusers.AutoencoderDC.from_pretrained(
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
    assert cfg.downsampling == 32


def test_half_precision_and_logical_axes():
    half = {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16}
    pixels = jnp.zeros((1, 32, 32, 3))
    is_box = lambda x: isinstance(x, nn.LogicallyPartitioned)  # noqa: E731
    shapes = jax.eval_shape(AutoencoderDC(SMALL, **half).init, jax.random.key(0), pixels)
    for leaf in jax.tree.leaves(shapes, is_leaf=is_box):
        assert axes.ALL.issuperset(leaf.names)
        assert len(leaf.names) == len(leaf.value.shape)
        assert leaf.value.dtype == jnp.bfloat16
    out = jax.eval_shape(AutoencoderDC(SMALL, **half).apply, nn.unbox(shapes), pixels)
    assert out.dtype == jnp.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"downsample_block_type": "pixel_unshuffle"}, "'pixel_unshuffle'; expected 'conv'"),
        ({"decoder_norm_types": "batch_norm"}, "found 'batch_norm'; expected 'rms_norm'"),
        ({"decoder_block_types": ["ResBlock"] * 3}, "decoder_block_types: found"),
    ],
)
def test_a_directory_of_another_network_is_refused(tmp_path, change, message):
    reference(SMALL).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        diffusers_parts.read(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoder_layers_per_block": (1, 2)}, r"found \[1, 2\]; expected 6 positive numbers"),
        ({"latent_channels": 33}, "found 33; expected a divisor of the 1024 channels"),
        ({"block_out_channels": (64, 96, 96, 96, 96, 96)}, "64 channels before 96; expected a di"),
        ({"attention_head_dim": 48}, "found 48; expected a divisor of the 512 channels"),
        ({"image_size": 48}, "found 48; expected a multiple of 32"),
    ],
)
def test_sizes_that_cannot_work_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        DCAutoencoderConfig(**fields)

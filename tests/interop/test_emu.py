"""Emu: an export runs in timm, transformers and diffusers, and comes back equal; the release."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from tests.interop.conftest import VOCAB, write_run
from tests.latent_oracles import diffusers
from tests.oracles import timm
from unijax.core import tree
from unijax.core.errors import UserError
from unijax.interop.exporting import export_checkpoint
from unijax.interop.importing import import_checkpoint
from unijax.interop.sources import open_directory
from unijax.interop.verify import verify
from unijax.models.autoencoder import AutoencoderConfig
from unijax.models.cformer import CFormerConfig
from unijax.models.eva import EvaConfig
from unijax.models.llama import LlamaConfig
from unijax.models.siglip import SiglipConfig
from unijax.models.unet import UNetConfig
from unijax.systems.emu import EmuConfig
from unijax.systems.painter import PainterConfig
from unijax.train import checkpoint

TEXT = LlamaConfig(VOCAB, 32, 48, 2, 4, 2, 8, 1e-6, 1e4, 2048)
VISION = EvaConfig(32, 64, 2, 2, image_size=16, patch_size=4, features="pre_norm", init="eva_clip")
PAINTER = PainterConfig(
    UNetConfig(
        8, block_out_channels=(32, 64), layers_per_block=1, attention_levels=(True, False),
        cross_attention_dim=32, num_attention_heads=4,
    ),
    AutoencoderConfig(16, 4, (32, 64), 1, scaling_factor=0.7), free="prompt",
)  # fmt: skip
CONFIG = EmuConfig(TEXT, VISION, CFormerConfig(4, 24, 40, 2, 3, 8, 8, 16), PAINTER)
SIGLIP = SiglipConfig(16, 4, 32, 64, 2, 2)
assert diffusers, timm  # imported as these can be, before interop asks for them
KINDS = {"eva": CONFIG, "siglip": dataclasses.replace(CONFIG, vision=SIGLIP, painter=None)}


@pytest.fixture(scope="module", params=KINDS)
def run(request, tmp_path_factory):
    place = tmp_path_factory.mktemp("emu") / "run"
    return write_run(place, "emu", KINDS[request.param])


@pytest.fixture(scope="module")
def out(run):
    export_checkpoint(run, run.parent / "out")
    return run.parent / "out"


def test_the_other_sides_networks_give_the_same_outputs(run, out):
    found = verify(run, out, tolerance=1e-4)
    assert found.ok, f"\n{found}"
    kinds = {d.kind for d in found.differences}
    assert kinds >= {"features", "vectors", "hidden", "text", "regressed"}
    assert ("noise" in kinds) == (out / "unet").is_dir()


def test_it_comes_back_equal_to_the_bit(run, out, tmp_path):
    import_checkpoint(out, tmp_path / "again")
    before, after = (tree.flatten(checkpoint.read_params(d)) for d in (run, tmp_path / "again"))
    assert before.keys() == after.keys()
    for path, x in before.items():
        np.testing.assert_array_equal(after[path], x, err_msg=path)


def test_names_are_those_of_the_release(out):
    names = set(open_directory(out / "multimodal_encoder").tensors)
    assert names >= {
        "ln_visual.weight", "cformer.causal_tokens", "cformer.projection.bias",
        "cformer.cformer.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "cformer.cformer.block.1.layer.1.EncDecAttention.k.weight",
        "decoder.lm.model.layers.1.self_attn.q_proj.weight", "decoder.lm.lm_head.weight",
        "decoder.lm.stu_regress_head.weight",
    }  # fmt: skip
    assert any(name.startswith("visual.") for name in names)


def test_the_release_is_a_torch_file_without_sizes(run, out, tmp_path):
    """Which is held to the published ones: this small one is not it, and nothing is written."""
    release = tmp_path / "release"
    shutil.copytree(out, release)
    (release / "config.json").unlink()
    encoder = release / "multimodal_encoder"
    source = open_directory(encoder)
    state = {name: torch.from_numpy(np.array(source.read(name))) for name in source.tensors}
    (encoder / "model.safetensors").unlink()
    torch.save(state, encoder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"tensors missing|sizes of its tensors"):
        import_checkpoint(release, tmp_path / "run")
    assert not (tmp_path / "run").exists()

"""MetaMorph: an export runs in transformers and diffusers, and comes back equal."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from tests.interop.conftest import VOCAB, write_run
from tests.latent_oracles import diffusers
from unijax.core import tree
from unijax.core.errors import UserError
from unijax.interop.exporting import export_checkpoint
from unijax.interop.importing import import_checkpoint, import_parts
from unijax.interop.verify import verify
from unijax.models.autoencoder import AutoencoderConfig
from unijax.models.llama import LlamaConfig
from unijax.models.siglip import SiglipConfig
from unijax.models.unet import UNetConfig
from unijax.ops.rope import RopeScaling
from unijax.systems.features import VisualiserConfig
from unijax.systems.metamorph import MetaMorphConfig
from unijax.systems.painter import PainterConfig
from unijax.systems.visualiser import VisualiserSystemConfig
from unijax.train import checkpoint

TEXT = LlamaConfig(
    VOCAB, 32, 48, 2, 4, 2, 8, 1e-5, 5e5, 4096, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8)
)
VISION = SiglipConfig(
    15, 4, 16, 32, 2, 2, hidden_act="gelu_tanh", features="pre_norm", leaves_pixels=True
)
PAINTER = PainterConfig(
    UNetConfig(
        8, block_out_channels=(32, 64), layers_per_block=1, attention_levels=(True, False),
        cross_attention_dim=12, num_attention_heads=4,
    ),
    AutoencoderConfig(16, 4, (32, 64), 1, scaling_factor=0.7),
)  # fmt: skip
CONFIG = MetaMorphConfig(TEXT, VISION, VisualiserConfig(PAINTER, 20, 6), grid=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("metamorph") / "run", "metamorph", CONFIG)


@pytest.fixture(scope="module")
def out(run):
    export_checkpoint(run, run.parent / "out")
    return run.parent / "out"


def test_the_other_sides_networks_give_the_same_outputs(run, out):
    found = verify(run, out, tolerance=1e-4)
    assert found.ok, f"\n{found}"
    assert {d.kind for d in found.differences} == {
        "features", "hidden", "text", "vectors", "condition", "noise", "latents", "decoded",
    }  # fmt: skip


def test_it_comes_back_equal_to_the_bit(run, out, tmp_path):
    done = import_checkpoint(out, tmp_path / "again")
    before, after = (tree.flatten(checkpoint.read_params(d)) for d in (run, tmp_path / "again"))
    assert before.keys() == after.keys()
    for path, x in before.items():
        np.testing.assert_array_equal(after[path], x, err_msg=path)
    assert done.config == CONFIG


def test_its_folders_are_those_of_their_libraries(out):
    """Of a scheduler, too."""
    scheduler = diffusers.PNDMScheduler.from_pretrained(out / "scheduler")
    assert (scheduler.config.skip_prk_steps, scheduler.config.beta_end) == (True, 0.012)
    assert {p.name for p in out.iterdir() if p.is_dir()} == {
        "vision_tower", "projector", "unet", "vae", "scheduler",
    }  # fmt: skip


def test_what_a_release_leaves_to_others_is_made_at_random_and_told(out, tmp_path):
    """The tower and the visualiser; a projection that nothing uses is left out."""
    shutil.copytree(out, tmp_path / "release")
    shutil.rmtree(tmp_path / "release" / "vision_tower")
    done = import_checkpoint(tmp_path / "release", tmp_path / "run")
    assert any("made at random: vision_model/" in note for note in done.notes), done.notes


def test_a_missing_part_is_named(out, tmp_path):
    shutil.copytree(out, tmp_path / "release")
    shutil.rmtree(tmp_path / "release" / "unet")
    with pytest.raises(UserError, match=r"tensors missing \(unet/"):
        import_checkpoint(tmp_path / "release", tmp_path / "run")


def test_a_release_of_another_size_is_refused(out, tmp_path):
    shutil.copytree(out, tmp_path / "release")
    path = tmp_path / "release" / "config.json"
    content = json.loads(path.read_text())
    del content["model"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="vocab_size: found 320; expected 128258, as the released"):
        import_checkpoint(tmp_path / "release", tmp_path / "run")


def test_the_painter_comes_from_diffusers_directories(out, run, tmp_path):
    parts = {"unet": out / "unet", "vae": out / "vae"}
    import_parts(tmp_path / "run", "metamorph", CONFIG, parts)
    found, want = (tree.flatten(checkpoint.read_params(d)) for d in (tmp_path / "run", run))
    for path, x in want.items():
        if path.startswith(("unet/", "autoencoder/")):
            np.testing.assert_array_equal(found[path], x, err_msg=path)
    other = dataclasses.replace(CONFIG, visualiser=None)
    with pytest.raises(UserError, match=r"a config with model\.visualiser"):
        import_parts(tmp_path / "other", "metamorph", other, parts)


def test_a_visualiser_alone_goes_out_and_comes_back(tmp_path):
    """It was a system that no format could say."""
    config = VisualiserSystemConfig(VISION, CONFIG.visualiser, CONFIG.grid)
    run, out = write_run(tmp_path / "run", "visualiser", config), tmp_path / "out"
    export_checkpoint(run, out)
    found = verify(run, out, tolerance=1e-4)
    assert found.ok, f"\n{found}"
    kinds = {d.kind for d in found.differences}
    assert kinds == {"features", "condition", "noise", "latents", "decoded"}
    done = import_checkpoint(out, tmp_path / "again")
    assert done.config == config
    before, after = (tree.flatten(checkpoint.read_params(d)) for d in (run, tmp_path / "again"))
    assert before.keys() == after.keys()
    for path, x in before.items():
        np.testing.assert_array_equal(after[path], x, err_msg=path)

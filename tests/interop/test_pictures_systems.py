"""Systems of single pictures: autoencoders in diffusers' and transformers' form, a SigLIP tower."""

import dataclasses

import numpy as np
import pytest

from tests import latent_oracles  # noqa: F401 (diffusers is told of no peft)
from tests.interop.conftest import write_run
from unijax.core import tree
from unijax.core.errors import UserError
from unijax.interop.exporting import export_checkpoint
from unijax.interop.importing import import_checkpoint, import_parts
from unijax.interop.verify import verify
from unijax.models.autoencoder import SIZES as KL
from unijax.models.clip import ClipTextConfig
from unijax.models.patchgan import PatchGANConfig
from unijax.models.siglip import SIZES as SIGLIP
from unijax.models.vqgan import SIZES as VQ
from unijax.systems.contrastive import ContrastiveConfig
from unijax.systems.tokenizer import TokenizerConfig
from unijax.train import checkpoint

GAN = PatchGANConfig(base_channels=32, num_layers=1)
TOWER = dataclasses.replace(SIGLIP["siglip_test"], hidden_act="gelu_tanh")
CONFIGS = {
    "kl": TokenizerConfig(kl=KL["kl_test"], discriminator=GAN, perceptual_weight=0.0),
    "vq": TokenizerConfig(vq=VQ["vq_test"], discriminator=GAN, perceptual_weight=0.0),
    "tower": ContrastiveConfig(TOWER, ClipTextConfig(60, 32, 32, 1, 2, 16), 16),
}
SYSTEMS = {"kl": "tokenizer", "vq": "tokenizer", "tower": "contrastive"}
FORMATS = {"kl": "diffusers", "vq": "hf", "tower": "hf"}


@pytest.fixture(scope="module", params=CONFIGS)
def run(request, tmp_path_factory):
    base = tmp_path_factory.mktemp(request.param)
    run = write_run(base / "run", SYSTEMS[request.param], CONFIGS[request.param])
    return request.param, run, export_checkpoint(run, base / "out")


def test_the_other_side_gives_the_same_outputs(run):
    name, run_dir, done = run
    found = verify(run_dir, done.path, tolerance=1e-5)
    assert found.ok, f"\n{found}"
    expected = ["features"] if name == "tower" else ["latents", "decoded"]
    assert [d.kind for d in found.differences] == expected
    left = "similarity, text_model" if name == "tower" else "discriminator"
    assert any(f"this format has no place for {left}" in note for note in done.notes)


def test_what_went_out_comes_back_equal_to_the_bit(run, tmp_path):
    name, run_dir, done = run
    before = tree.flatten(checkpoint.read_params(run_dir))
    if name == "tower":
        with pytest.raises(UserError, match=r"Import it with --part siglip=.* and --config"):
            import_checkpoint(done.path, tmp_path / "again")
        config = CONFIGS[name]
        import_parts(tmp_path / "again", "contrastive", config, {"siglip": done.path})
    else:
        config = import_checkpoint(done.path, tmp_path / "again").config
        network = "kl" if name == "kl" else "vq"
        assert getattr(config, network) == getattr(CONFIGS[name], network)
    after = tree.flatten(checkpoint.read_params(tmp_path / "again"))
    kept = [p for p in before if p.startswith(("generator/", "vision_model/"))]
    assert len(kept) > 10
    for path in kept:
        np.testing.assert_array_equal(after[path], before[path], err_msg=path)


def test_an_export_of_another_system_is_told(run, tmp_path):
    name, run_dir, _ = run
    other = "vq" if name == "tower" else "tower"
    written = write_run(tmp_path / "run", SYSTEMS[other], CONFIGS[other])
    exported = export_checkpoint(written, tmp_path / "out").path
    with pytest.raises(UserError) as error:
        verify(run_dir, exported)
    assert f"a checkpoint of the system '{SYSTEMS[other]}'" in str(error.value)
    assert f"expected one of '{SYSTEMS[name]}'" in str(error.value)


def test_a_format_of_the_system_that_cannot_say_the_model_is_told(run, tmp_path):
    name, run_dir, _ = run
    known = {"kl": "hf", "vq": "diffusers"}.get(name)
    if known is not None:
        with pytest.raises(UserError, match=rf"found {known} for this model; expected one of"):
            export_checkpoint(run_dir, tmp_path / "out", known)
    with pytest.raises(UserError, match="--format: found 'onnx'; expected one of"):
        export_checkpoint(run_dir, tmp_path / "out", "onnx")


def test_a_tokenizer_that_no_class_can_be_is_told(tmp_path):
    vq = dataclasses.replace(VQ["vq_test"], unit_codes=False)
    config = dataclasses.replace(CONFIGS["vq"], vq=vq)
    run = write_run(tmp_path / "run", "tokenizer", config)
    with pytest.raises(UserError, match="image tokenizer: found unit_codes=False"):
        export_checkpoint(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()

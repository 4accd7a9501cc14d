"""EVA's towers in timm's directories: out, in, and the same outputs there."""

import dataclasses
import json

import numpy as np
import pytest

from tests.interop.conftest import write_run
from tests.models.test_eva import KINDS
from unijax.core import tree
from unijax.core.errors import UserError
from unijax.interop import timm_tower
from unijax.interop.exporting import export_checkpoint
from unijax.interop.importing import import_checkpoint, import_parts
from unijax.interop.verify import verify
from unijax.models.clip import ClipTextConfig
from unijax.models.eva import SIZES
from unijax.models.siglip import SIZES as SIGLIP
from unijax.systems.classification import ClassificationConfig
from unijax.systems.contrastive import ContrastiveConfig
from unijax.systems.mim import MimConfig
from unijax.train import checkpoint

TEXT = ClipTextConfig(60, 32, 32, 1, 2, 16)
STUDENT = dataclasses.replace(
    KINDS["EVA-02 with sub-LN"], mask_token=True, drop_path=0.1, num_hidden_layers=1
)
TEACHER = dataclasses.replace(SIGLIP["siglip_test"], image_size=32, patch_size=8)
CONFIGS = {
    "mim": MimConfig(STUDENT, TEACHER),
    "contrastive": ContrastiveConfig(KINDS["EVA-CLIP"], TEXT, 16, "softmax", "class", True),
    "classification": ClassificationConfig(KINDS["EVA-02 packed"], 5, "class"),
    "mean of patches": ClassificationConfig(KINDS["EVA-01"], 5, "mean"),
}


@pytest.fixture(scope="module", params=CONFIGS)
def run(request, tmp_path_factory):
    base = tmp_path_factory.mktemp("run")
    system = request.param if request.param in ("mim", "contrastive") else "classification"
    run = write_run(base / "run", system, CONFIGS[request.param])
    return system, CONFIGS[request.param], run, export_checkpoint(run, base / "out")


def test_timm_gives_the_same_outputs(run):
    system, _, run_dir, done = run
    found = verify(run_dir, done.path, tolerance=1e-5)
    assert found.ok, f"\n{found}"
    expected = ["scores"] if system == "classification" else ["features"]
    assert [d.kind for d in found.differences] == expected


def test_what_went_out_comes_back_equal_to_the_bit(run, tmp_path):
    system, config, run_dir, done = run
    before, again = tree.flatten(checkpoint.read_params(run_dir)), tmp_path / "again"
    if system == "classification":
        found = import_checkpoint(done.path, again).config
        assert found == config
    else:
        with pytest.raises(UserError, match=r"Import it with --part .*eva=.* and --config"):
            import_checkpoint(done.path, again)
        import_parts(again, system, config, {"eva": done.path})
    after = tree.flatten(checkpoint.read_params(again))
    kept = [p for p in before if p.startswith("vision_model/") and not p.endswith("mask_token")]
    assert len(kept) > 10
    for path in kept + ["head/kernel"] * (system == "classification"):
        np.testing.assert_array_equal(after[path], before[path], err_msg=path)


@pytest.mark.parametrize("name", sorted(SIZES))
def test_a_release_without_arguments_is_of_its_architectures_size(name, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": name}))
    notes: list[str] = []
    found = timm_tower.read_config(tmp_path, notes)
    unsaid = {f: getattr(SIZES[name], f) for f in timm_tower.UNSAID}
    assert dataclasses.replace(found, **unsaid) == SIZES[name]
    assert notes == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "vit_base"}, "found architecture 'vit_base'; expected one of"),
        ({"architecture": ["vit"]}, r"found architecture .*; expected one of"),
        ({"model_args": {"qkv_fused": False}}, r"model_args\.qkv_fused: found False"),
        ({"model_args": {"depth": 0}}, r"model_args\.depth: found 0; expected a whole number"),
        ({"model_args": {"swiglu_mlp": 3}}, r"model_args\.swiglu_mlp: found 3; expected True"),
    ],
)
def test_what_no_tower_here_is_is_refused(changes, message, tmp_path):
    content = {"architecture": "eva_giant_patch14_224"} | changes
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        timm_tower.read_config(tmp_path, [])


def test_a_tower_of_another_size_or_kind_than_the_config_says_is_refused(tmp_path):
    run = write_run(tmp_path / "run", "mim", CONFIGS["mim"])
    out = export_checkpoint(run, tmp_path / "out").path
    other = dataclasses.replace(CONFIGS["mim"].vision, intermediate_size=86)
    with pytest.raises(UserError, match="intermediate_size=85 instead of 86"):
        import_parts(
            tmp_path / "a", "mim", dataclasses.replace(CONFIGS["mim"], vision=other), {"eva": out}
        )
    siglip = ContrastiveConfig(SIGLIP["siglip_test"], TEXT, 16)
    with pytest.raises(UserError, match=r"--part eva: found .* whose tower is 'siglip'"):
        import_parts(tmp_path / "b", "contrastive", siglip, {"eva": out})
    eva = dataclasses.replace(siglip, vision=KINDS["EVA-01"])
    with pytest.raises(UserError, match=r"--part siglip: found .* whose tower is 'eva'"):
        import_parts(tmp_path / "c", "contrastive", eva, {"siglip": out})


def test_an_export_of_another_kind_of_tower_is_told(tmp_path):
    """Sizes are compared of networks of one kind."""
    runs = {}
    for name, vision in (("eva", KINDS["EVA-01"]), ("siglip", TEACHER)):
        config = ContrastiveConfig(vision, TEXT, 16)
        runs[name] = write_run(tmp_path / name, "contrastive", config)
        export_checkpoint(runs[name], tmp_path / f"{name}_out")
    with pytest.raises(UserError, match="found vision of the kind SiglipConfig; expected EvaConf"):
        verify(runs["eva"], tmp_path / "siglip_out")
    with pytest.raises(UserError, match="found vision of the kind EvaConfig; expected SiglipConf"):
        verify(runs["siglip"], tmp_path / "eva_out")


def test_a_tower_that_timm_has_not_is_told(tmp_path):
    odd = dataclasses.replace(STUDENT, layer_norm_eps=1e-5)
    run = write_run(tmp_path / "run", "mim", dataclasses.replace(CONFIGS["mim"], vision=odd))
    with pytest.raises(UserError, match="found none for this model"):
        export_checkpoint(run, tmp_path / "out")

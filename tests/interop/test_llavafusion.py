"""LLaVAFusion: a directory of LLaVA-NeXT as its frozen model, and the way out, whole or of it."""

import dataclasses
import json
import re
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from tests.interop.conftest import random_weights, run_alone, write_run
from tests.interop.test_hostile import refusals
from tests.interop.test_llava import LLAMA3, LLAMA3_NAMES, llava_next, write_tokenizer
from tests.interop.test_transfusion import AE, TEXT
from tests.systems.test_transfusion import AUTOENCODER, PATCHES
from unijax.core import tree
from unijax.core.errors import UserError
from unijax.core.record import to_json
from unijax.data import tokenizer as tokenizer_lib
from unijax.interop import registry
from unijax.interop.exporting import export_checkpoint
from unijax.interop.importing import import_checkpoint, import_parts
from unijax.interop.opening import abstract_params, open_model
from unijax.interop.verify import verify
from unijax.models.clip import ClipVisionConfig
from unijax.models.eva import EvaConfig
from unijax.models.latent_patches import LatentPatchesConfig
from unijax.models.siglip import SiglipConfig
from unijax.ops.image import to_signed
from unijax.ops.tiles import cut
from unijax.systems.llavafusion import SIZES, LLaVAFusion, LLaVAFusionConfig
from unijax.systems.reading import ReadingConfig
from unijax.train import checkpoint

TOWER = ClipVisionConfig(18, 6, 32, 48, 2, 2, features="pre_norm")
SIGLIP = SiglipConfig(18, 4, 32, 48, 2, 2, hidden_act="gelu_tanh", leaves_pixels=True)
EVA = EvaConfig(32, 48, 2, 2, image_size=18, patch_size=6)
WHOLE = LLaVAFusionConfig(
    TEXT, TOWER, newline=True, begins=True, autoencoder=AE, patches=LatentPatchesConfig(8, 4, 2)
)
CONFIGS = {
    "parts": dataclasses.replace(WHOLE, tiles=2),
    "whole": WHOLE,
    "SigLIP, shallow": dataclasses.replace(
        WHOLE, vision=SIGLIP, newline=False, separation="shallow"
    ),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A directory of LLaVA-NeXT, its parameters by path, and a config over it."""
    folder = tmp_path_factory.mktemp("base")
    directory = folder / "model"
    directory.mkdir()
    ids = write_tokenizer(directory, LLAMA3, LLAMA3_NAMES)
    torch.manual_seed(0)
    theirs = llava_next(ids).eval()
    random_weights(theirs, 0)
    theirs.save_pretrained(directory)
    alone = import_checkpoint(directory, folder / "alone").run_dir
    _, read = registry.recognize(directory)
    found = read.read_config(directory, [], None)
    fields = {f.name: getattr(found, f.name) for f in dataclasses.fields(ReadingConfig)}
    config = LLaVAFusionConfig(**fields, autoencoder=AUTOENCODER, patches=PATCHES)
    return directory, tree.flatten(checkpoint.read_params(alone)), config


@pytest.mark.parametrize("separation", ["deep", "shallow"])
def test_the_frozen_model_comes_in_whole_and_the_twin_begins_as_its_copy(
    base, tmp_path, separation
):
    directory, want, config = base
    config = dataclasses.replace(config, separation=separation)
    import_parts(tmp_path / "run", "llavafusion", config, {"base": directory})
    found = tree.flatten(checkpoint.read_params(tmp_path / "run"))
    for path, x in want.items():
        np.testing.assert_array_equal(found[path], x, err_msg=path)
    groups = {path.split("/")[0] for path in found.keys() - want.keys()}
    assert groups == {"autoencoder", "image_layers", "image_twin"}
    twin = [path for path in found if path.startswith("image_twin/")]
    assert any("q_proj" in path for path in twin) == (separation == "deep")
    for path in twin:
        text = want[path.replace("image_twin/", "language_model/")]
        np.testing.assert_array_equal(found[path], text, err_msg=path)
    recorded = checkpoint.read_run(tmp_path / "run")["config"]
    assert recorded["data"]["template"] == "llama3"
    special = tokenizer_lib.load(tmp_path / "run" / "tokenizer").special
    assert (special.bos, special.image_placeholder, special.boi) == (0, 3, None)


def test_another_model_is_refused(base, tmp_path):
    directory, _, config = base
    text = dataclasses.replace(config.text, intermediate_size=64)
    wider = dataclasses.replace(config, text=text)
    with pytest.raises(UserError, match="intermediate_size=48 instead of 64"):
        import_parts(tmp_path / "run", "llavafusion", wider, {"base": directory})
    with pytest.raises(UserError, match="no part 'llama' of the system 'llavafusion'"):
        import_parts(tmp_path / "run", "llavafusion", config, {"llama": directory})


@pytest.fixture(scope="module", params=["parts", "whole", "SigLIP, shallow"])
def run(request, tmp_path_factory):
    """At random, with pictures that are read in parts, or whole, by either tower."""
    place = tmp_path_factory.mktemp("run") / "run"
    return write_run(place, "llavafusion", CONFIGS[request.param])


def test_pytorch_gives_the_same_outputs_and_it_comes_back_equal_to_the_bit(run, tmp_path):
    """Of rows that are read, drawn, and both."""
    export_checkpoint(run, tmp_path / "out")
    found = verify(run, tmp_path / "out", tolerance=1e-4)
    assert found.ok, f"\n{found}"
    kinds = ["hidden", "text", "noise", "latents", "decoded", "drawn"]
    kinds += ["pictures", "shown text", "shown noise", "edited"]
    assert [d.kind for d in found.differences] == kinds
    done = import_checkpoint(tmp_path / "out", tmp_path / "again")
    before, after = (tree.flatten(checkpoint.read_params(d)) for d in (run, tmp_path / "again"))
    assert before.keys() == after.keys()
    for path, x in before.items():
        np.testing.assert_array_equal(after[path], x, err_msg=path)
    assert to_json(done.config) == checkpoint.read_run(run)["config"]["model"]


PLANTED = {  # a tensor that is wrong, and outputs that do and do not know it
    "vision_model.encoder.layers.1.mlp.fc1.weight": ({"pictures", "shown text"}, {"text", "drawn"}),
    "aligner.image_newline": ({"pictures", "shown text"}, {"text", "drawn"}),
    "image_twin.layers.0.mlp.up_proj.weight": ({"noise", "shown noise", "edited"}, {"pictures"}),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_errors_are_seen_where_they_are(name, tmp_path):
    run = write_run(tmp_path / "run", "llavafusion", CONFIGS["parts"])
    export_checkpoint(run, tmp_path / "out")
    file = tmp_path / "out" / "model.safetensors"
    tensors = load_file(file)
    tensors[name] = np.roll(tensors[name], 1, axis=0)
    save_file(tensors, file)
    found = {d.kind: d.largest for d in verify(run, tmp_path / "out").differences}
    wrong, right = PLANTED[name]
    assert {kind for kind, off in found.items() if off > 1e-3} >= wrong
    assert max(found[kind] for kind in right) < 1e-4


def test_a_changed_file_beside_the_weights_is_told(tmp_path):
    run = write_run(tmp_path / "run", "llavafusion", CONFIGS["whole"])
    export_checkpoint(run, tmp_path / "out")
    with (tmp_path / "out" / "modeling_llavafusion.py").open("a") as file:
        file.write("# edited\n")
    with pytest.raises(UserError, match="expected the one that this version of unijax exports"):
        verify(run, tmp_path / "out")


ALONE = """
import sys
for name in ("unijax", "jax", "flax", "transformers", "diffusers"):
    sys.modules[name] = None  # whatever asks for it fails
import numpy, torch
from modeling_llavafusion import LLaVAFusion

model = LLaVAFusion.from_pretrained(".")
pixels = torch.from_numpy(numpy.load("pixels.npy"))
with torch.no_grad():
    views = model.views(pixels)
    seen = model.embed_pictures(views)
numpy.savez("out.npz", views=views.numpy(), seen=seen.numpy())
special = model.config["special_token_ids"]
latents = model.draw([special["bos"], 9, special["boi"]], steps=2)
assert model.decode(latents).shape[1] == 3
# A model whose rows have no begin-of-sequence is guided away from one without it.
model.config["model"]["begins"] = False
noise = torch.randn(latents.shape)
drawn = [
    model.draw([9, special["boi"]], away, steps=2, guidance=3.0, noise=noise, fresh=[noise] * 2)
    for away in (None, [special["boi"]], [special["bos"], special["boi"]])
]
assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
"""


def test_the_files_beside_the_weights_need_nothing_else(tmp_path):
    """And see of a picture what is seen here: the whole made small to a level of its bytes."""
    config = CONFIGS["parts"]
    run = write_run(tmp_path / "run", "llavafusion", config)
    export_checkpoint(run, tmp_path / "out")
    place = shutil.move(tmp_path / "out", tmp_path / "elsewhere")
    side = config.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    signed = np.asarray(to_signed(jnp.asarray(pixels)))
    np.save(place / "pixels.npy", np.moveaxis(signed, -1, 1))
    run_alone(ALONE, place)
    found = np.load(place / "out.npz")
    want = np.moveaxis(np.asarray(cut(jnp.asarray(signed), config.tiles)), -1, 2)
    assert np.abs(found["views"] - want).max() <= 1.01 / 127.5
    assert (np.abs(found["views"] - want) > 1e-5).mean() < 1e-3
    system, params = LLaVAFusion(config), checkpoint.read_params(run)
    seen = system.embed_und(params, system.encode_und(params, jnp.asarray(signed)))
    assert found["seen"].shape == seen.shape


def test_what_came_in_goes_out_as_it_was(base, tmp_path):
    """To the bit: in the whole's form, and the frozen model alone in its own, which transformers
    runs."""
    directory, _, config = base
    import_parts(tmp_path / "run", "llavafusion", config, {"base": directory})
    export_checkpoint(tmp_path / "run", tmp_path / "whole")
    export_checkpoint(tmp_path / "run", tmp_path / "base", "next")
    source, whole, alone = (
        load_file(place / "model.safetensors")
        for place in (directory, tmp_path / "whole", tmp_path / "base")
    )
    for name, x in source.items():
        if "layers.2" in name or "post_layernorm" in name:  # of the tower, which nothing reads
            continue
        np.testing.assert_array_equal(alone[name], x, err_msg=name)
        of_whole = name.replace("language_model.model.", "language_model.")
        of_whole = re.sub(r"^vision_tower\.(vision_model\.)?", "vision_model.", of_whole)
        of_whole = re.sub("^(multi_modal_projector|image_newline)", r"aligner.\1", of_whole)
        np.testing.assert_array_equal(whole[of_whole], x, err_msg=name)
    found = verify(tmp_path / "run", tmp_path / "base", tolerance=1e-4)
    assert found.ok, f"\n{found}"
    assert [d.kind for d in found.differences] == ["text", "picture"]


def test_an_export_says_how_it_is_asked(base, tmp_path):
    directory, _, config = base
    import_parts(tmp_path / "run", "llavafusion", config, {"base": directory})
    path = tmp_path / "run" / "tokenizer" / "special_tokens.json"
    content = json.loads(path.read_text())
    content["names"] |= {"boi": "<|start_header_id|>", "eoi": "<|end_header_id|>"}
    path.write_text(json.dumps(content))
    export_checkpoint(tmp_path / "run", tmp_path / "out")
    for said, recorded in ((None, "llama3"), ("janus", "janus")):
        again = import_checkpoint(tmp_path / "out", tmp_path / recorded, template=said).run_dir
        assert checkpoint.read_run(again)["config"]["data"]["template"] == recorded
    path = tmp_path / "out" / "config.json"
    path.write_text(path.read_text().replace('"llama3"', '"llama4"'))
    with pytest.raises(UserError, match=r"template: found 'llama4'|template: found \"llama4\""):
        import_checkpoint(tmp_path / "out", tmp_path / "other")


def test_every_tensor_of_the_published_size_has_a_name(tmp_path):
    config = SIZES["llavafusion_8b"]
    whole, *_ = registry.interop("llavafusion").formats
    paths = [path for entry in whole.table(config, tmp_path).entries for path in entry.ours]
    assert sorted(paths) == sorted(abstract_params("llavafusion", config))


def test_changed_configs_give_one_clear_error_or_are_read(tmp_path):
    run = write_run(tmp_path / "run", "llavafusion", CONFIGS["parts"])
    export_checkpoint(run, tmp_path / "out")
    assert refusals(tmp_path / "out", ["config.json"], tmp_path, open_model, seed=0) > 20


def test_what_the_file_cannot_run_is_not_exported(tmp_path):
    config = dataclasses.replace(CONFIGS["whole"], vision=EVA, newline=False)
    run = write_run(tmp_path / "run", "llavafusion", config)
    with pytest.raises(UserError, match=r"model\.vision\.kind: found 'eva'"):
        export_checkpoint(run, tmp_path / "out")
    with pytest.raises(UserError, match="found next for this model"):
        export_checkpoint(run, tmp_path / "out", "next")
    assert not (tmp_path / "out").exists()

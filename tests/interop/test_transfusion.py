"""Transfusion, LMFusion: an export runs in the PyTorch file beside it, and comes back equal."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch
from transformers import LlamaConfig as LlamaConfigOfHF
from transformers import LlamaForCausalLM

from tests.interop.conftest import (
    VOCAB,
    random_weights,
    run_alone,
    write_run,
    write_tokenizer,
)
from tests.interop.test_hostile import refusals
from unijax.core import tree
from unijax.core.errors import UserError
from unijax.core.record import to_json
from unijax.data import tokenizer as tokenizers
from unijax.interop import diffusers_parts
from unijax.interop.exporting import export_checkpoint
from unijax.interop.importing import import_checkpoint, import_parts
from unijax.interop.opening import open_model
from unijax.interop.systems.transfusion import compare
from unijax.interop.systems.transfusion.modeling_transfusion import hybrid_mask
from unijax.interop.verify import verify
from unijax.models.autoencoder import AutoencoderConfig
from unijax.models.latent_patches import LatentPatchesConfig
from unijax.models.llama import LlamaConfig
from unijax.models.unet import UNetConfig
from unijax.ops.diffusion import NoiseSchedule
from unijax.systems.lmfusion import LMFusionConfig
from unijax.systems.transfusion import Transfusion, TransfusionConfig
from unijax.train import checkpoint

TEXT = LlamaConfig(VOCAB, 32, 48, 2, 4, 2, 8, 1e-5)
AE = AutoencoderConfig(16, 4, (32, 64), 1, scaling_factor=0.7, shift_factor=0.1)
LINEAR = TransfusionConfig(TEXT, AE, LatentPatchesConfig(8, 4, 2))
UNET = TransfusionConfig(
    TEXT, AE, unet=UNetConfig(8, 4, 4, (32, 64), 1, (False, True), False, 0, 4)
)
TWINS = LMFusionConfig(TEXT, AE, LatentPatchesConfig(8, 4, 2))
CONFIGS = {  # the linear one is in what follows
    "unet": UNET,
    "at the patch, v, ddim": dataclasses.replace(
        LINEAR,
        patches=LatentPatchesConfig(8, 4, 4, "patch"),
        prediction="v_prediction",
        sampler="ddim",
        autoencoder=dataclasses.replace(AE, use_quant_conv=False, use_post_quant_conv=False),
        schedule=NoiseSchedule("scaled_linear", 200, 0.00085, 0.012),
        steps=50,
    ),
    "twins": TWINS,
    "shallow twins": dataclasses.replace(TWINS, separation="shallow"),
}


def system_of(config: TransfusionConfig) -> str:
    return "lmfusion" if isinstance(config, LMFusionConfig) else "transfusion"


@pytest.fixture(scope="module", params=CONFIGS)
def run(request, tmp_path_factory):
    config, place = CONFIGS[request.param], tmp_path_factory.mktemp("run") / "run"
    return write_run(place, system_of(config), config)


@pytest.fixture(scope="module")
def out(run):
    export_checkpoint(run, run.parent / "out", max_shard_bytes=200_000)
    return run.parent / "out"


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    run = write_run(tmp_path_factory.mktemp("linear") / "run", "transfusion", LINEAR)
    export_checkpoint(run, run.parent / "out")
    return run, run.parent / "out"


def test_pytorch_gives_the_same_outputs(run, out):
    found = verify(run, out, tolerance=1e-4)
    assert found.ok, f"\n{found}"
    kinds = [d.kind for d in found.differences]
    assert kinds == ["hidden", "text", "noise", "latents", "decoded", "drawn"]
    assert len(list(out.glob("model-*.safetensors"))) > 1


def test_it_comes_back_equal_to_the_bit(run, out, tmp_path):
    done = import_checkpoint(out, tmp_path / "again")
    before, after = (tree.flatten(checkpoint.read_params(d)) for d in (run, tmp_path / "again"))
    assert before.keys() == after.keys()
    for path, x in before.items():
        np.testing.assert_array_equal(after[path], x, err_msg=path)
    assert to_json(done.config) == checkpoint.read_run(run)["config"]["model"]
    assert tokenizers.load(tmp_path / "again" / "tokenizer").special.boi == 3


def test_a_tokenizer_without_marks_that_nothing_asks_for(tmp_path):
    run = write_run(tmp_path / "run", "transfusion", LINEAR)
    path = run / "tokenizer" / "special_tokens.json"
    content = json.loads(path.read_text())
    for role in ("pad", "image_placeholder"):
        del content["names"][role]
    path.write_text(json.dumps(content))
    export_checkpoint(run, tmp_path / "out")
    import_checkpoint(tmp_path / "out", tmp_path / "again")
    special = tokenizers.load(tmp_path / "again" / "tokenizer").special
    assert (special.pad, special.image_placeholder) == (None, None)
    assert special == tokenizers.load(run / "tokenizer").special


ALONE = """
import sys
for name in ("unijax", "jax", "flax", "transformers", "diffusers"):
    sys.modules[name] = None  # whatever asks for it fails
import numpy, torch
from modeling_transfusion import Transfusion

model = Transfusion.from_pretrained(".")
given = {k: torch.from_numpy(x) for k, x in numpy.load("given.npz").items()}
first = lambda x: x.movedim(-1, 1)  # channels
with torch.no_grad():
    patches, kept = model.embed_latents(first(given["latents"]), given["timestep"])
    words = model.embed_text(given["before"])
    start, n = words.shape[1], patches.shape[1]
    x = torch.cat([words, patches, model.embed_text(given["after"])], dim=1)
    image = torch.zeros(x.shape[:2], dtype=torch.long)
    image[:, start : start + n] = 1
    hidden = model.hidden_states(x, image)
    out = {
        "text": model.text_logits(hidden),
        "noise": model.predict_noise(hidden[:, start : start + n], kept, given["timestep"]),
        "latents": model.encode(first(given["pixels"])),
        "decoded": model.decode(first(given["latents"])),
        "drawn": model.draw(
            given["before"][0].tolist(), given["unconditional"][0].tolist(), len(given["fresh"]),
            3.0, noise=first(given["noise"]), fresh=given["fresh"].movedim(-1, 2),
        ),
    }
last = lambda name, x: x if name == "text" else x.movedim(1, -1)
numpy.savez("out.npz", **{name: last(name, x).numpy() for name, x in out.items()})
special = model.config["special_token_ids"]
draw = lambda seed: model.draw(
    [special["bos"], 9, 12, special["boi"]], steps=3, generator=torch.Generator().manual_seed(seed)
)
assert torch.equal(draw(0), draw(0)) and not torch.equal(draw(0), draw(1))
for steps in (0, 1001):
    try:
        model.draw([special["bos"], special["boi"]], steps=steps)
    except ValueError as e:
        assert str(steps) in str(e)
    else:
        raise AssertionError("drawn in steps that the schedule does not have")
# In another type and on another device: what it makes of its own was float32, on the CPU.
whole, model = draw(0), Transfusion.from_pretrained(".", torch.bfloat16)
assert draw(0).dtype == torch.float32 and model.decode(whole).dtype == torch.bfloat16
assert (draw(0) - whole).abs().max() < 0.1 * whole.abs().max()
model = model.to("meta")
assert model.decode(draw(0)).device.type == "meta"
"""


def test_the_file_beside_the_weights_needs_nothing_else_and_gives_the_same(linear, tmp_path):
    place = shutil.copytree(linear[1], tmp_path / "elsewhere")
    given = compare.prompts(LINEAR, place, np.random.default_rng(0))
    np.savez(place / "given.npz", **dataclasses.asdict(given))
    run_alone(ALONE, place)
    theirs = np.load(place / "out.npz")
    with jax.default_matmul_precision("highest"):
        ours = compare.ours(Transfusion, LINEAR, checkpoint.read_params(linear[0]), given, {})
    for kind in ("text", "noise", "latents", "decoded", "drawn"):
        assert np.abs(ours[kind] - theirs[kind]).max() <= 1e-4 * np.abs(theirs[kind]).max(), kind
    source = (place / "modeling_transfusion.py").read_text()
    imports = {line.split()[1].split(".")[0] for line in source.splitlines()
               if line.startswith(("import ", "from "))}  # fmt: skip
    assert imports == {"json", "math", "pathlib", "torch", "safetensors"}
    assert "modeling_transfusion.py" in (place / "README.md").read_text()


def test_a_file_beside_the_weights_that_was_not_compared_is_told(linear, tmp_path):
    place = shutil.copytree(linear[1], tmp_path / "elsewhere")
    with (place / "modeling_transfusion.py").open("a") as file:
        file.write("# edited\n")
    with pytest.raises(UserError, match="expected the one that this version of unijax exports"):
        verify(linear[0], place)


def test_patches_of_an_image_see_each_other_and_all_else_is_causal():
    image = torch.tensor([[0, 1, 1, 0, 2, 2]])
    at = torch.arange(6)
    same = (image[0][:, None] == image[0]) & (image[0] > 0)
    want = (at[None] <= at[:, None]) | same
    assert torch.equal(hybrid_mask(image)[0, 0], want)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("language_model.layers.0.self_attn.q_proj.weight", "hidden"),
        ("image_layers.time_embedding.linear_2.weight", "noise"),
        ("image_layers.proj_out.weight", "noise"),
        ("autoencoder.encoder.conv_out.weight", "latents"),
        ("autoencoder.decoder.mid_block.attentions.0.to_v.weight", "decoded"),
        ("image_layers.proj_in.weight", "drawn"),
    ],
)
def test_planted_errors_are_seen_where_they_are(linear, tmp_path, name, kind):
    run, out = linear
    shutil.copytree(out, tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    tensors[name] = np.roll(tensors[name], 1, axis=0)
    save_file(tensors, tmp_path / "out" / "model.safetensors")
    found = {d.kind: d.largest for d in verify(run, tmp_path / "out").differences}
    assert found[kind] > 1e-3


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sampler": "euler"}, "model.sampler: found 'euler'; expected one of ['ddpm', 'ddim']"),
        ({"text": dataclasses.replace(TEXT, qkv_bias=True)}, "text.qkv_bias: found True"),
    ],
)
def test_what_the_file_cannot_run_is_not_exported(tmp_path, changes, expected):
    run = write_run(tmp_path / "run", "transfusion", dataclasses.replace(LINEAR, **changes))
    with pytest.raises(UserError) as error:
        export_checkpoint(run, tmp_path / "out")
    assert expected in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        (("text", "num_hidden_layers"), 10**9, "num_hidden_layers: found 1000000000"),
        (("text", "num_hidden_layers"), 3, "tensors missing"),
        (("text", "hidden_size"), "wide", "hidden_size: found 'wide' of type str; expected int"),
        (("text", "vocab_size"), 1000, "vocab_size 1,000"),
        (("patches", "patch_size"), 3, "a divisor of latent_size=8"),
        (("extra",), 1, "unknown key 'extra'"),
        (("separation",), "deep", "unknown key 'separation'"),
    ],
)
def test_configs_that_are_not_of_the_weights_are_refused(linear, tmp_path, key, value, expected):
    shutil.copytree(linear[1], tmp_path / "out")
    path = tmp_path / "out" / "config.json"
    content = json.loads(path.read_text())
    group = content["model"]
    for name in key[:-1]:
        group = group[name]
    group[key[-1]] = value
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as error:
        import_checkpoint(tmp_path / "out", tmp_path / "again")
    assert expected in str(error.value)
    assert not (tmp_path / "again").exists()


def test_changed_configs_give_one_clear_error_or_are_read(linear, tmp_path):
    assert refusals(linear[1], ["config.json"], tmp_path, open_model, seed=0) > 20


@pytest.fixture(scope="module")
def parts(linear, tmp_path_factory):
    """A llama in bfloat16 with its tokenizer, an autoencoder of diffusers; and their tensors."""
    base = tmp_path_factory.mktemp("parts")
    llama = LlamaForCausalLM(
        LlamaConfigOfHF(
            vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-5,
            tie_word_embeddings=False,
        )
    )  # fmt: skip
    random_weights(llama, 0)
    llama.to(torch.bfloat16).save_pretrained(base / "llama")
    write_tokenizer(base / "llama")
    autoencoder = checkpoint.read_params(linear[0])["autoencoder"]
    diffusers_parts.write(base / "autoencoder", AE, autoencoder)
    places = {name: base / name for name in ("llama", "autoencoder")}
    return places, load_torch(base / "llama" / "model.safetensors"), tree.flatten(autoencoder)


@pytest.mark.parametrize("name", ["twins", "shallow twins"])
def test_parts_are_taken_over_and_the_twin_begins_as_a_copy_of_the_text(parts, tmp_path, name):
    """And text and autoencoder go out again as they came, to the bit."""
    places, llama, autoencoder = parts
    import_parts(tmp_path / "run", "lmfusion", CONFIGS[name], places)
    params = checkpoint.read_params(tmp_path / "run")
    text, twin, images = (
        tree.flatten(params[group]) for group in ("language_model", "image_twin", "autoencoder")
    )
    up = llama["model.layers.1.mlp.up_proj.weight"].float().numpy()
    np.testing.assert_array_equal(twin["layers/mlp/up_proj/kernel"][1], up.T)
    assert ("layers/self_attn/q_proj/kernel" in twin) == (name == "twins")
    for path, x in twin.items():
        np.testing.assert_array_equal(x, text[path], err_msg=path)
    for path, x in autoencoder.items():
        np.testing.assert_array_equal(images[path], x, err_msg=path)
    export_checkpoint(tmp_path / "run", tmp_path / "out")
    exported = load_torch(tmp_path / "out" / "model.safetensors")
    for key, x in llama.items():
        found = exported[f"language_model.{key.removeprefix('model.')}"]
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, x), key


def test_parts_of_other_sizes_are_refused(parts, tmp_path):
    places, _, _ = parts
    deeper = dataclasses.replace(LINEAR, autoencoder=dataclasses.replace(AE, layers_per_block=2))
    wider = dataclasses.replace(TWINS, text=dataclasses.replace(TEXT, intermediate_size=64))
    for system, config, part, said in (
        ("transfusion", deeper, "autoencoder", "layers_per_block=1 instead of 2"),
        ("lmfusion", wider, "llama", "intermediate_size=48 instead of 64"),
    ):
        with pytest.raises(UserError, match=said):
            import_parts(tmp_path / "run", system, config, {part: places[part]})
        assert not (tmp_path / "run").exists()


def test_a_planted_error_in_the_twin_is_seen(tmp_path):
    run = write_run(tmp_path / "run", "lmfusion", TWINS)
    export_checkpoint(run, tmp_path / "out")
    file = tmp_path / "out" / "model.safetensors"
    tensors = load_file(file)
    name = "image_twin.layers.1.mlp.down_proj.weight"
    tensors[name] = np.roll(tensors[name], 1, axis=0)
    save_file(tensors, file)
    found = {d.kind: d.largest for d in verify(run, tmp_path / "out").differences}
    assert found["noise"] > 1e-3
    assert found["latents"] < 1e-4

"""LLaVA-NeXT, LLaVA-OneVision, Qwen2.5-VL: directories of transformers in, out, and as a part."""

import dataclasses
import json
import shutil

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import tokenizers
import torch
import transformers
from safetensors.numpy import load_file, save_file
from tokenizers import decoders, models, pre_tokenizers, trainers

from tests.interop.conftest import random_weights
from unijax.core import tree
from unijax.core.errors import UserError
from unijax.data import tokenizer as tokenizers_of_data
from unijax.interop.exporting import export_checkpoint
from unijax.interop.importing import import_checkpoint, import_parts
from unijax.interop.verify import verify
from unijax.models.connector import ConnectorConfig
from unijax.models.dc_autoencoder import SIZES as DC
from unijax.models.sana import SanaConfig
from unijax.ops.image import by_clip_statistics, to_signed
from unijax.ops.tiles import cut
from unijax.systems.metaquery import MetaQueryConfig
from unijax.train import checkpoint

TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|image_pad|>", "<begin_of_img>", "<end_of_img>",
)  # fmt: skip
# Of LLaVA-NeXT with Llama 3, whose pictures have no marks.
LLAMA3 = (
    "<|begin_of_text|>", "<|eot_id|>", "<pad>", "<image>", "<|start_header_id|>",
    "<|end_header_id|>",
)  # fmt: skip
LLAMA3_NAMES = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "pad_token": "<pad>"}
QWEN2_NAMES = {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
VOCAB = 320
TEXT = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
)  # fmt: skip


def write_tokenizer(directory, tokens=TOKENS, names=QWEN2_NAMES) -> dict[str, int]:
    """Byte-level BPE with the special tokens of a release; Qwen2's have no begin of sequence."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - 4, special_tokens=list(tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(["a red cat on the mat, two blue dogs"] * 50, trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return {token: tokenizer.token_to_id(token) for token in tokens}


def onevision(ids):
    vision = dict(
        model_type="siglip_vision_model", hidden_size=16, intermediate_size=32,
        num_hidden_layers=2, num_attention_heads=2, image_size=18, patch_size=4,
        vision_use_head=False,
    )  # fmt: skip
    config = transformers.LlavaOnevisionConfig(
        text_config=dict(model_type="qwen2", **TEXT), vision_config=vision,
        image_token_index=ids["<|image_pad|>"], image_grid_pinpoints=[[18, 18]],
        vision_feature_select_strategy="full", vision_feature_layer=-1,
        projector_hidden_act="gelu", tie_word_embeddings=True,
    )  # fmt: skip
    return transformers.LlavaOnevisionForConditionalGeneration(config)


def qwen(ids):
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}
    config = transformers.Qwen2_5_VLConfig(
        text_config=dict(rope_parameters=rope, rms_norm_eps=1e-6, **TEXT),
        vision_config=dict(
            depth=2, hidden_size=16, num_heads=2, intermediate_size=20, out_hidden_size=32,
            patch_size=14, window_size=112, fullatt_block_indexes=[1],
        ),
        image_token_id=ids["<|image_pad|>"], tie_word_embeddings=False,
    )  # fmt: skip
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def llava_next(ids):
    config = transformers.LlavaNextConfig(
        text_config=dict(model_type="llama", rms_norm_eps=1e-5, **TEXT),
        vision_config=dict(
            model_type="clip_vision_model", hidden_size=16, intermediate_size=32,
            num_hidden_layers=3, num_attention_heads=2, image_size=18, patch_size=6,
        ),
        image_token_index=ids["<image>"],
        image_grid_pinpoints=[[18, 36], [36, 18], [36, 36], [54, 18], [18, 54]],
    )  # fmt: skip
    return transformers.LlavaNextForConditionalGeneration(config)


@pytest.fixture(scope="module", params=["onevision", "qwen", "next"])
def model(request, tmp_path_factory):
    """Name, directory, and the run it was imported into."""
    base = tmp_path_factory.mktemp(request.param)
    directory = base / "model"
    directory.mkdir()
    is_next = request.param == "next"
    ids = write_tokenizer(directory, *((LLAMA3, LLAMA3_NAMES) if is_next else ()))
    torch.manual_seed(0)
    of = {"onevision": onevision, "qwen": qwen, "next": llava_next}
    theirs = of[request.param](ids).eval()
    random_weights(theirs, 0)
    theirs.save_pretrained(directory)
    done = import_checkpoint(directory, base / "run")
    return request.param, directory, done


def test_an_import_gives_the_logits_of_transformers(model):
    """Of texts, and of rows with a picture."""
    _, directory, done = model
    found = verify(done.run_dir, directory, tolerance=1e-4)
    assert found.ok, f"\n{found}"
    assert [d.kind for d in found.differences] == ["text", "picture"]


def test_an_import_knows_the_turns_and_marks(model):
    name, _, done = model
    recorded = checkpoint.read_run(done.run_dir)["config"]
    templates = {"onevision": "llava_onevision", "qwen": "qwen2.5_vl", "next": "llama3"}
    assert recorded["data"]["template"] == templates[name]
    special = tokenizers_of_data.load(done.run_dir / "tokenizer").special
    if name == "next":
        assert (special.bos, special.eos, special.pad, special.image_placeholder) == (0, 1, 2, 3)
        assert (special.boi, special.eoi) == (None, None)
        return
    assert (special.bos, special.eos, special.pad) == (None, 2, 0)
    assert (special.vision_start, special.vision_end, special.boi, special.eoi) == (3, 4, 6, 7)


def test_it_goes_out_and_comes_back_equal_to_the_bit(model, tmp_path):
    _, _, done = model
    out = export_checkpoint(done.run_dir, tmp_path / "out").path
    found = verify(done.run_dir, out, tolerance=1e-4)
    assert found.ok, f"\n{found}"
    again = import_checkpoint(out, tmp_path / "again")
    assert again.config == done.config
    before, after = (
        tree.flatten(checkpoint.read_params(d)) for d in (done.run_dir, tmp_path / "again")
    )
    assert before.keys() == after.keys()
    for path, x in before.items():
        np.testing.assert_array_equal(after[path], x, err_msg=path)


def test_names_of_the_release_are_read_too(model, tmp_path):
    """One more before those of the tower, but for Qwen2.5-VL's."""
    name, directory, done = model
    if name == "qwen":
        return
    for file in directory.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, tmp_path)
    tensors = load_file(directory / "model.safetensors")
    longer = {
        n.replace("vision_tower.", "vision_tower.vision_model."): x for n, x in tensors.items()
    }
    save_file(longer, tmp_path / "model.safetensors")
    import_checkpoint(tmp_path, tmp_path / "run")
    before, after = (
        tree.flatten(checkpoint.read_params(run)) for run in (done.run_dir, tmp_path / "run")
    )
    for path, x in before.items():
        np.testing.assert_array_equal(after[path], x, err_msg=path)


def test_it_is_the_frozen_part_of_a_metaquery(model, tmp_path):
    name, directory, done = model
    base = {f.name: getattr(done.config, f.name) for f in dataclasses.fields(done.config)}
    config = MetaQueryConfig(
        **base, queries=4, marks=(6, 7), connector=ConnectorConfig(32, 24, 1, 8),
        generator=SanaConfig(4, 8, 8, 1, 4, 8, 2, 16, 24),
        autoencoder=dataclasses.replace(DC["dc_ae_test"], image_size=16),
    )  # fmt: skip
    import_parts(tmp_path / "run", "metaquery", config, {"llava": directory}, tokenizer=directory)
    found = tree.flatten(checkpoint.read_params(tmp_path / "run"))
    for path, x in tree.flatten(checkpoint.read_params(done.run_dir)).items():
        np.testing.assert_array_equal(found[path], x, err_msg=path)
    if name == "next":
        with pytest.raises(UserError, match="found none for this model; expected one that can say"):
            export_checkpoint(tmp_path / "run", tmp_path / "out", tokenizer=directory)
    other = dataclasses.replace(config, text=dataclasses.replace(config.text, rope_theta=2.0))
    with pytest.raises(UserError, match=r"decoder: found rope_theta=.* instead of 2.0"):
        import_parts(tmp_path / "other", "metaquery", other, {"llava": directory})


@pytest.mark.parametrize(
    ("group", "key", "value", "message"),
    [
        ("text_config", "use_sliding_window", True, "use_sliding_window: found true"),
        ("text_config", "hidden_act", "gelu", "hidden_act: found .*gelu"),
        ("vision_config", "hidden_act", "relu", "vision_config.hidden_act: found .*relu"),
        ("text_config", "qk_norm", True, "qk_norm"),
        ("text_config", "model_type", "seed_oss", "text_config.model_type: found 'seed_oss'"),
        ("vision_config", "model_type", "dinov2", "vision_config.model_type: found 'dinov2'"),
        ("text_config", "rope_scaling", {"rope_type": "default", "factor": 4.0}, "factor: found 4"),
        ("text_config", "rope_scaling", {"type": "yarn"}, "type: found 'yarn'"),
        ("text_config", "rope_theta", 3.0, "rope_theta: found"),
        ("text_config", "tie_word_embeddings", "yes", "tie_word_embeddings: found 'yes'"),
    ],
)
def test_what_no_such_model_has_is_refused(model, tmp_path, group, key, value, message):
    name, directory, _ = model
    if name == "next":
        return
    values = json.loads((directory / "config.json").read_text())
    values[group][key] = value
    if key == "tie_word_embeddings":
        values.pop(key, None)  # the first that says it counts
    for file in directory.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=f"(?i){message}"):
        import_checkpoint(tmp_path, tmp_path / "run")


# LLaVA-NeXT


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A directory of transformers with the tower's last layer, and a run of it."""
    base = tmp_path_factory.mktemp("next")
    directory = base / "model"
    directory.mkdir()
    theirs = llava_next(write_tokenizer(directory, LLAMA3, LLAMA3_NAMES)).eval()
    random_weights(theirs, 1)
    theirs.save_pretrained(directory)
    return directory, import_checkpoint(directory, base / "run")


def test_a_tower_is_imported_up_to_the_layer_that_is_read(released):
    directory, done = released
    vision = done.config.vision
    assert (vision.num_hidden_layers, vision.features) == (2, "pre_norm")
    assert (done.config.tiles, done.config.image_size, done.config.picture_tokens) == (2, 36, 51)
    found = tree.flatten(checkpoint.read_params(done.run_dir))
    theirs = load_file(directory / "model.safetensors")
    assert any("vision_tower.encoder.layers.2." in name for name in theirs)
    fc1 = found["vision_model/encoder/layers/mlp/fc1/kernel"]
    assert fc1.shape == (2, 16, 32)
    np.testing.assert_array_equal(fc1[1].T, theirs["vision_tower.encoder.layers.1.mlp.fc1.weight"])


def test_an_export_loads_without_a_missing_tensor(released, tmp_path):
    _, done = released
    out = export_checkpoint(done.run_dir, tmp_path / "out").path
    model, info = transformers.LlavaNextForConditionalGeneration.from_pretrained(
        out, output_loading_info=True
    )
    assert not any(info.values()), info
    assert model.config.vision_feature_layer == -1
    assert model.config.vision_config.num_hidden_layers == 2
    # A square picture of two tiles' side is brought to these, as in the release.
    assert model.config.image_grid_pinpoints == [[18, 36], [36, 18], [36, 36], [54, 18], [18, 54]]


def test_an_export_needs_a_token_for_pictures(released, tmp_path):
    _, done = released
    shutil.copytree(done.run_dir / "tokenizer", tmp_path / "tokenizer")
    path = tmp_path / "tokenizer" / "special_tokens.json"
    content = json.loads(path.read_text())
    del content["names"]["image_placeholder"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="no token for image_placeholder; expected one"):
        export_checkpoint(done.run_dir, tmp_path / "out", tokenizer=tmp_path / "tokenizer")


@pytest.mark.parametrize(("size", "tiles"), [(54, 3), (18, 1)])
def test_other_squares_are_read_and_written(released, tmp_path, size, tiles):
    """Of one part, a picture comes twice, and the tower sees it once."""
    directory, _ = released
    changed = edited(directory, tmp_path / "changed", image_grid_pinpoints=[[18, 36], [size, size]])
    done = import_checkpoint(changed, tmp_path / "run")
    assert (done.config.tiles, done.config.image_size) == (tiles, size)
    assert verify(done.run_dir, changed, tolerance=1e-5).ok
    out = export_checkpoint(done.run_dir, tmp_path / "out").path
    assert json.loads((out / "config.json").read_text())["image_grid_pinpoints"] == [[size, size]]
    assert verify(done.run_dir, out, tolerance=1e-5).ok
    assert import_checkpoint(out, tmp_path / "again").config == done.config


def edited(directory, to, **changes):
    """The same with another config.json; what is None is not in it."""
    to.mkdir()
    for file in directory.iterdir():
        (to / file.name).symlink_to(file)
    values = json.loads((directory / "config.json").read_text())
    for path, value in changes.items():
        *groups, key = path.split("__")
        group = values[groups[0]] if groups else values
        group.pop(key, None)
        if value is not None:
            group[key] = value
    (to / "config.json").unlink()
    (to / "config.json").write_text(json.dumps(values))
    return to


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_feature_select_strategy": "full"}, "select_strategy: found .*full.*'default'"),
        ({"vision_feature_layer": -3}, "vision_feature_layer: found -3; expected -2 or -1"),
        ({"vision_feature_layer": [-2, -5]}, r"vision_feature_layer: found \[-2, -5\]"),
        ({"use_image_newline_parameter": False}, "use_image_newline_parameter: found false"),
        ({"projector_hidden_act": "relu"}, "projector_hidden_act: found .*relu"),
        ({"multimodal_projector_bias": False}, "multimodal_projector_bias: found false"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings: found true"),
        ({"text_config__tie_word_embeddings": True}, "text_config.tie_word_embeddings: found true"),
        ({"text_config__model_type": "mistral"}, "text_config.model_type: found .*mistral"),
        ({"vision_config": None}, "no vision_config; expected the tower's sizes"),
        ({"vision_config__model_type": "siglip_vision_model"}, "vision_config.model_type: found"),
        ({"vision_config__hidden_act": "relu"}, "vision_config.hidden_act: found .*relu"),
        ({"vision_config__num_channels": 1}, "vision_config.num_channels: found 1"),
        ({"vision_config__num_hidden_layers": 1}, "num_hidden_layers: found 1; expected .* 2 to"),
        ({"vision_config__use_qk_norm": True}, "vision_config.use_qk_norm: found true"),
        (
            {"image_grid_pinpoints": [[18, 36], [36, 18]]},
            r"found \[\[18, .*such as \[36, 36\] among",
        ),
        ({"image_grid_pinpoints": [[40, 40]]}, r"image_grid_pinpoints: found \[\[40, 40\]\]"),
        ({"image_grid_pinpoints": [[36]]}, r"found \[\[36\]\]; expected a list of \[height"),
        ({"image_grid_pinpoints": 36}, r"found 36; expected a list of \[height"),
        ({"image_grid_pinpoints": [[1800, 1800]]}, "tokens of a picture; expected fewer"),
        ({"architectures": ["LlavaForConditionalGeneration"]}, "architectures: found"),
    ],
)
def test_what_no_llava_next_has_is_refused(released, tmp_path, changes, message):
    directory, _ = released
    with pytest.raises(UserError, match=f"(?is){message}"):
        import_checkpoint(edited(directory, tmp_path / "changed", **changes), tmp_path / "run")


def test_what_is_not_known_of_a_tower_is_told(released, tmp_path):
    directory, _ = released
    changed = edited(directory, tmp_path / "changed", vision_config__wings=2, vocab_size=VOCAB)
    notes = import_checkpoint(changed, tmp_path / "run").notes
    assert sum("is not known here" in note for note in notes) == 1
    assert any("vision_config.wings=2 is not known here" in note for note in notes)


def test_other_sizes_of_pictures_than_the_runs_are_refused(released, tmp_path):
    directory, done = released
    changed = edited(directory, tmp_path / "changed", image_grid_pinpoints=[[18, 18], [54, 54]])
    with pytest.raises(UserError, match=r"found \[\[18, 18\], .*; expected \[36, 36\] among them"):
        verify(done.run_dir, changed)


def test_a_missing_newline_is_named(released, tmp_path):
    directory, _ = released
    for file in directory.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, tmp_path)
    tensors = load_file(directory / "model.safetensors")
    del tensors["image_newline"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="image_newline"):
        import_checkpoint(tmp_path, tmp_path / "run")


def test_turns_of_another_tokenizer_are_asked_for(released, tmp_path):
    """Those of Vicuna, for one, have no headers."""
    directory, _ = released
    other = tmp_path / "other"
    other.mkdir()
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>",
             "image_token": "<image>", "boi_token": "<boi>", "eoi_token": "<eoi>"}  # fmt: skip
    write_tokenizer(other, [*names.values()], names)
    with pytest.raises(UserError, match=r"no special token <\|start_header_id\|>"):
        import_checkpoint(directory, tmp_path / "run", tokenizer=other)
    import_checkpoint(directory, tmp_path / "told", tokenizer=other, template="emu")
    recorded = checkpoint.read_run(tmp_path / "told")["config"]
    assert recorded["data"]["template"] == "emu"


def test_pictures_are_those_of_transformers_processor(released):
    """Pixels of a square picture, whole and in parts, in its order; PIL makes the whole."""
    _, done = released
    size, tiles = done.config.vision.image_size, done.config.tiles
    side = size * tiles
    picture = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    processor = transformers.models.llava_next.image_processing_pil_llava_next
    theirs = processor.LlavaNextImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size},
        image_grid_pinpoints=[[size, side], [side, size], [side, side]],
    )(PIL.Image.fromarray(picture), return_tensors="np")  # fmt: skip
    assert theirs["image_sizes"].tolist() == [[side, side]]
    ours = by_clip_statistics(cut(to_signed(jnp.asarray(picture[None])), tiles))
    wanted = np.moveaxis(theirs["pixel_values"], 2, -1)
    assert ours.shape == wanted.shape == (1, 5, size, size, 3)
    np.testing.assert_allclose(ours, wanted, atol=1e-5)

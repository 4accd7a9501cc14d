"""LLaVA-OneVision and Qwen2.5-VL: directories of transformers in, out, and in as a part."""

import dataclasses
import json
import shutil

import numpy as np
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
from unijax.systems.metaquery import MetaQueryConfig
from unijax.train import checkpoint

TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|image_pad|>", "<begin_of_img>", "<end_of_img>",
)  # fmt: skip
VOCAB = 320
TEXT = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
)  # fmt: skip


def write_tokenizer(directory) -> dict[str, int]:
    """Byte-level BPE with Qwen2's special tokens, without a begin of sequence."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - 4, special_tokens=list(TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(["a red cat on the mat, two blue dogs"] * 50, trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>",
              "pad_token": "<|endoftext|>", "bos_token": None}  # fmt: skip
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return {token: tokenizer.token_to_id(token) for token in TOKENS}


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


@pytest.fixture(scope="module", params=["onevision", "qwen"])
def model(request, tmp_path_factory):
    """Name, directory, and the run it was imported into."""
    base = tmp_path_factory.mktemp(request.param)
    directory = base / "model"
    directory.mkdir()
    ids = write_tokenizer(directory)
    torch.manual_seed(0)
    theirs = {"onevision": onevision, "qwen": qwen}[request.param](ids).eval()
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
    template = {"onevision": "llava_onevision", "qwen": "qwen2.5_vl"}[name]
    assert recorded["data"]["template"] == template
    special = tokenizers_of_data.load(done.run_dir / "tokenizer").special
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
    """One more before those of LLaVA-OneVision's tower."""
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
    _, directory, done = model
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
    _, directory, _ = model
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

"""deepseek-ai's format: fused projections, its own words, PyTorch files, released configs."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from tests.interop.conftest import ROLES, SPECIAL, write_tokenizer
from tests.interop.deepseek import deepseek_config, deepseek_state
from unijax.core import tree
from unijax.core.errors import UserError
from unijax.core.vocab import SpecialIds
from unijax.data import tokenizer as tokenizer_lib
from unijax.interop.exporting import export_checkpoint
from unijax.interop.importing import import_checkpoint
from unijax.interop.sources import open_directory
from unijax.interop.systems.janus.configs import deepseek_config as written_config
from unijax.interop.systems.janus.sizes import read_sizes
from unijax.interop.verify import verify
from unijax.systems.janus import SIZES
from unijax.train import checkpoint

DROPPED = ("attn_pool", "codebook_used")


@pytest.fixture(scope="module")
def released(hf_model, tmp_path_factory):
    """As deepseek-ai ships it: shards of torch.save, image tokens named by the code alone."""
    directory = tmp_path_factory.mktemp("deepseek") / "model"
    directory.mkdir()
    state = deepseek_state(hf_model)
    names = sorted(state)
    weight_map = {}
    for i, part in enumerate((names[::2], names[1::2])):
        file = f"pytorch_model-{i + 1:05d}-of-00002.bin"
        torch.save({n: state[n] for n in part}, directory / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (directory / "config.json").write_text(json.dumps(deepseek_config()))
    write_tokenizer(directory)
    text = {k: v for k, v in SPECIAL.items() if k in ("bos_token", "eos_token", "pad_token")}
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": True, **text})
    )
    extra = {"additional_special_tokens": ["<image_placeholder>", *ROLES]}
    (directory / "special_tokens_map.json").write_text(json.dumps(text | extra))
    return directory


@pytest.fixture(scope="module")
def imported(released, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run") / "run"
    import_checkpoint(released, directory)
    return directory


@pytest.fixture(scope="module")
def exported(imported, tmp_path_factory):
    directory = tmp_path_factory.mktemp("out") / "out"
    export_checkpoint(imported, directory, format="deepseek", max_shard_bytes=1_000_000)
    return directory


def test_both_formats_give_the_same_parameters(imported, run_dir):
    ours, hf = (tree.flatten(checkpoint.read_params(d)) for d in (imported, run_dir))
    assert ours.keys() == hf.keys()
    for path, x in ours.items():
        np.testing.assert_array_equal(x, hf[path], err_msg=path)
    one, other = (checkpoint.read_run(d)["config"] for d in (imported, run_dir))
    assert one["model"] == other["model"]


def test_every_tensor_comes_back_to_the_bit(exported, hf_model):
    expected = {
        n: x for n, x in deepseek_state(hf_model).items() if not any(d in n for d in DROPPED)
    }
    source = open_directory(exported)
    assert source.tensors.keys() == expected.keys()
    for name, x in expected.items():
        np.testing.assert_array_equal(source.read(name), x.numpy(), err_msg=name)


def test_the_export_equals_the_run_in_logits(imported, exported):
    found = verify(imported, exported, tolerance=1e-5)
    assert found.ok, f"\n{found}"


def test_the_export_is_imported_again(exported, imported, tmp_path):
    import_checkpoint(exported, tmp_path / "again")
    again, before = (
        tree.flatten(checkpoint.read_params(d)) for d in (tmp_path / "again", imported)
    )
    for path, x in before.items():
        np.testing.assert_array_equal(again[path], x, err_msg=path)
    one, other = (tokenizer_lib.load(d / "tokenizer") for d in (tmp_path / "again", imported))
    assert one.special == other.special
    assert one.tokens == other.tokens


def test_the_files_beside_the_weights(exported, imported):
    processor = json.loads((exported / "processor_config.json").read_text())
    assert processor["processor_class"] == "VLChatProcessor"
    assert processor["num_image_tokens"] == 16
    assert processor["sft_format"] == "deepseek"
    assert processor["image_start_tag"] == "<begin_of_image>"
    assert json.loads((exported / "preprocessor_config.json").read_text())["image_size"] == 64
    ours = tokenizer_lib.load(imported / "tokenizer")
    theirs = AutoTokenizer.from_pretrained(exported)
    assert theirs("a red cat").input_ids == [ours.special.bos, *ours.encode("a red cat")]
    assert theirs.convert_tokens_to_ids("<begin_of_image>") == ours.special.boi


def test_merges_are_written_as_older_libraries_read_them(exported, imported):
    # The authors' code asks for transformers 4.38.2, which reads no pairs.
    written = json.loads((exported / "tokenizer.json").read_text())["model"]["merges"]
    source = json.loads((imported / "tokenizer" / "tokenizer.json").read_text())["model"]["merges"]
    assert source
    assert [merge.split(" ") for merge in written] == [list(pair) for pair in source]


def released_config(width, layers, heads, hidden):
    """config.json of Janus-Pro as it was released."""
    adaptor = {"depth": 2, "n_embed": width, "projector_type": "mlp_gelu"}
    head = {"image_token_embed": width, "image_token_size": 16384, "n_embed": width}
    return {
        "model_type": "multi_modality",
        "aligner_config": {"cls": "MlpProjector", "params": {"input_dim": 1024, **adaptor}},
        "gen_aligner_config": {"cls": "MlpProjector", "params": {"input_dim": 8, **adaptor}},
        "gen_head_config": {"cls": "vision_head", "params": head},
        "gen_vision_config": {
            "cls": "VQ-16",
            "params": {"image_token_size": 16384, "n_embed": 8},
        },
        "language_config": {
            "hidden_size": width, "intermediate_size": hidden, "max_position_embeddings": 16384,
            "model_type": "llama", "num_attention_heads": heads, "num_hidden_layers": layers,
            "num_key_value_heads": heads, "torch_dtype": "bfloat16", "vocab_size": 102400,
        },
        "vision_config": {
            "cls": "CLIPVisionTower",
            "params": {
                "image_size": 384, "model_name": "siglip_large_patch16_384",
                "select_feature": "same", "select_layer": -1,
            },
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("janus_1b", (2048, 24, 16, 5632)), ("janus_pro_1b", (2048, 24, 16, 5632)),
     ("janus_pro_7b", (4096, 30, 32, 11008))],
)  # fmt: skip
def test_released_configs_are_the_named_sizes(tmp_path, name, sizes):
    (tmp_path / "config.json").write_text(json.dumps(released_config(*sizes)))
    config = read_sizes(tmp_path, "deepseek")
    assert config == SIZES[name]
    written = written_config(config, "bfloat16", SpecialIds(0, 1, 2, 3, 4, 5))
    for section, values in released_config(*sizes).items():
        if section == "model_type":
            assert written[section] == values
        elif section == "language_config":
            assert written[section].items() >= values.items()
        else:
            assert written[section]["params"] == values["params"]
            assert written[section]["cls"] == values["cls"]


@pytest.mark.parametrize(
    ("section", "change", "expected"),
    [
        ("vision_config", {"select_layer": -2}, "select_layer: found -2"),
        ("vision_config", {"model_name": "sam_b"}, "model_name: found 'sam_b'"),
        ("aligner_config", {"projector_type": "identity"}, "projector_type: found 'identity'"),
        ("gen_aligner_config", {"depth": 1}, "depth: found 1"),
        ("gen_head_config", {"image_token_embed": 64}, "image_token_embed: found 64"),
        ("gen_vision_config", {"image_token_size": 50}, "image_token_size: found 48; expected 50"),
    ],
)
def test_other_kinds_are_refused(tmp_path, section, change, expected):
    config = deepseek_config()
    config[section]["params"].update(change)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as error:
        read_sizes(tmp_path, "deepseek")
    assert expected in str(error.value)

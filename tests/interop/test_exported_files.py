"""What stands beside the weights of an export: for whoever loads it, publishes it, converts it."""

import dataclasses
import json
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sentencepiece import SentencePieceProcessor
from transformers import AutoTokenizer, GenerationConfig, JanusForConditionalGeneration

from tests.interop.conftest import ROLES, SPECIAL
from tests.interop.test_hf_tokenizer import CORPUS
from unijax.core.errors import UserError
from unijax.core.vocab import SpecialIds
from unijax.data import sentencepiece_tokenizer
from unijax.data import tokenizer as tokenizer_lib
from unijax.interop import opening
from unijax.interop.exporting import export_checkpoint
from unijax.interop.importing import import_checkpoint
from unijax.interop.model_card import licence_of, write_model_card
from unijax.interop.registry import interop
from unijax.interop.systems.janus import tables
from unijax.interop.systems.janus.configs import deepseek_config, hf_config
from unijax.interop.systems.janus.sizes import read_sizes
from unijax.interop.table import foreign_shapes
from unijax.interop.verify import verify
from unijax.main.cli import main
from unijax.models.vqgan import VQConfig
from unijax.systems.janus import JanusConfig
from unijax.train import origin

IDS = SpecialIds(bos=0, eos=1, pad=2, boi=3, eoi=4, image_placeholder=5)
NAMES = {
    "bos": SPECIAL["bos_token"], "eos": SPECIAL["eos_token"], "pad": SPECIAL["pad_token"],
    "boi": SPECIAL["boi_token"], "eoi": SPECIAL["eoi_token"],
    "image_placeholder": SPECIAL["image_token"],
}  # fmt: skip
TEXTS = ["a red cat on the mat", "two  blue dogs", " a", "User: hello\n\nAssistant:", "猫"]


def read(directory, name):
    return json.loads((directory / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def exports(run_dir, tmp_path_factory):
    """Of one run in both formats."""
    base = tmp_path_factory.mktemp("exports")
    for format in ("hf", "deepseek"):
        export_checkpoint(run_dir, base / format, format=format)
    return base


def test_converters_that_look_for_an_architecture_find_the_whole_models(exports):
    # llama.cpp takes `text_config.architectures`, where there is one, for the model's.
    config = read(exports / "hf", "config.json")
    assert config["architectures"] == ["JanusForConditionalGeneration"]
    assert "architectures" not in config["text_config"]
    assert "architectures" not in read(exports / "deepseek", "config.json")["language_config"]
    # It takes a missing one for true.
    assert read(exports / "hf", "tokenizer_config.json")["add_prefix_space"] is False
    # Releases of transformers 4 that see it make the tokenizer anew from a sentencepiece model.
    assert "add_prefix_space" not in read(exports / "deepseek", "tokenizer_config.json")


def test_generation_defaults_are_written_in_both_formats(exports):
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    assert read(exports / "deepseek", "generation_config.json") == ids
    loaded = GenerationConfig.from_pretrained(exports / "deepseek")
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id) == (0, 1, 2)
    assert read(exports / "deepseek", "config.json")["language_config"].items() >= ids.items()
    assert read(exports / "hf", "generation_config.json").items() >= ids.items()


@pytest.fixture(scope="module")
def with_sentencepiece(run_dir, tmp_path_factory):
    """The run with a sentencepiece tokenizer, whose roles lie beyond its pieces."""
    run = tmp_path_factory.mktemp("sp") / "run"
    shutil.copytree(run_dir, run)
    shutil.rmtree(run / "tokenizer")
    sentencepiece_tokenizer.train(run / "tokenizer", CORPUS, vocab_size=300, names=NAMES)
    listed = run / "tokenizer" / "special_tokens.json"
    content = json.loads(listed.read_text())
    content["tokens"] |= {ROLES[0]: 300, ROLES[1]: 301}
    listed.write_text(json.dumps(content))
    return run


@pytest.mark.parametrize("format", ["hf", "deepseek"])
def test_a_sentencepiece_tokenizer_is_right_through_auto_tokenizer(
    with_sentencepiece, tmp_path, format
):
    export_checkpoint(with_sentencepiece, tmp_path / "out", format=format)
    ours = tokenizer_lib.load(with_sentencepiece / "tokenizer")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in TEXTS:
        assert theirs(text).input_ids == [ours.special.bos, *ours.encode(text)], text
        assert theirs.decode(ours.encode(text)) == text
    for token, token_id in ours.tokens.items():
        assert theirs.convert_tokens_to_ids(token) == token_id
        assert theirs(token).input_ids == [ours.special.bos, token_id]


@pytest.mark.parametrize("format", ["hf", "deepseek"])
def test_the_sentencepiece_model_goes_along_and_comes_back(with_sentencepiece, tmp_path, format):
    export_checkpoint(with_sentencepiece, tmp_path / "out", format=format)
    model = tmp_path / "out" / "tokenizer.model"
    assert model.read_bytes() == (with_sentencepiece / "tokenizer" / model.name).read_bytes()
    # Who reads it finds the tokens beyond its pieces in the config.
    beyond = read(tmp_path / "out", "tokenizer_config.json")["added_tokens_decoder"]
    assert SentencePieceProcessor(model_file=str(model)).get_piece_size() == 300
    assert {i: t["content"] for i, t in beyond.items() if int(i) >= 300} == {
        "300": ROLES[0], "301": ROLES[1]
    }  # fmt: skip
    import_checkpoint(tmp_path / "out", tmp_path / "again")
    ours, again = (
        tokenizer_lib.load(d / "tokenizer") for d in (with_sentencepiece, tmp_path / "again")
    )
    assert (tmp_path / "again" / "tokenizer" / "tokenizer.model").is_file()
    assert (ours.special, ours.tokens) == (again.special, again.tokens)
    assert [ours.encode(t) for t in TEXTS] == [again.encode(t) for t in TEXTS]


def test_where_the_two_forms_of_a_tokenizer_differ_transformers_one_is_taken(
    with_sentencepiece, export_dir, tmp_path
):
    shutil.copytree(export_dir, tmp_path / "m")
    shutil.copyfile(
        with_sentencepiece / "tokenizer" / "tokenizer.model", tmp_path / "m" / "tokenizer.model"
    )
    import_checkpoint(tmp_path / "m", tmp_path / "run")
    assert not (tmp_path / "run" / "tokenizer" / "tokenizer.model").exists()
    ours = tokenizer_lib.load(tmp_path / "run" / "tokenizer")
    assert ours.encode("a cat") == AutoTokenizer.from_pretrained(export_dir)("a cat").input_ids[1:]


def test_a_byte_level_tokenizer_has_no_sentencepiece_model(exports):
    assert not (exports / "hf" / "tokenizer.model").exists()


@pytest.mark.parametrize("multiplier", [(1, 2, 2), (2, 2)])
@pytest.mark.parametrize("write", [hf_config, deepseek_config])
def test_an_image_tokenizer_that_its_own_code_cannot_run_is_refused(hf_dir, multiplier, write):
    config = read_sizes(hf_dir, "hf")
    size = 4 * 2 ** (len(multiplier) - 1)
    vq = VQConfig(size, 32, multiplier, 0, 16, 8, 48)
    other = JanusConfig(config.text, config.vision, vq)
    with pytest.raises(UserError, match="num_res_blocks=0 with channel_multiplier"):
        write(other, "float32", IDS)


@pytest.mark.parametrize("option", ["unit_codes", "coarse_attention"])
@pytest.mark.parametrize("write", [hf_config, deepseek_config])
def test_an_image_tokenizer_of_another_kind_is_refused(hf_dir, option, write):
    config = read_sizes(hf_dir, "hf")
    vq = dataclasses.replace(config.vq, **{option: False})
    with pytest.raises(UserError, match=f"{option}=False"):
        write(dataclasses.replace(config, vq=vq), "float32", IDS)


def test_one_without_blocks_that_it_can_run_is_exported_and_loads(hf_dir, tmp_path):
    config = read_sizes(hf_dir, "hf")
    config = JanusConfig(config.text, config.vision, VQConfig(16, 32, (1, 1, 2), 0, 16, 8, 48))
    rng = np.random.default_rng(0)
    shapes = {p: a.shape for p, a in opening.abstract_params("janus", config).items()}
    tensors = {
        n: rng.normal(size=s).astype(np.float32) * 0.1
        for n, s in foreign_shapes(tables.hf(config), shapes).items()
    }
    folder = tmp_path / "m"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(hf_config(config, "float32", IDS)))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(hf_dir / name, folder / name)
    _, info = JanusForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    import_checkpoint(folder, tmp_path / "run")
    found = verify(tmp_path / "run", folder, tolerance=1e-5)
    assert found.ok, f"\n{found}"


@pytest.mark.parametrize("hidden", [33, 49, 96, 98, 1152])
def test_every_ratio_of_widths_comes_back(hf_dir, hidden):
    config = read_sizes(hf_dir, "hf")
    for inner in (hidden - 1, hidden + 1, *range(3 * hidden, 3 * hidden + 20), 4304):
        sizes = {"hidden_size": hidden, "intermediate_size": inner, "num_attention_heads": 1}
        vision = dataclasses.replace(config.vision, **sizes)
        said = hf_config(dataclasses.replace(config, vision=vision), "float32", IDS)
        assert int(hidden * said["vision_config"]["mlp_ratio"]) == inner


def test_the_card_says_what_it_is_and_how_it_was_trained(exports, hf_model):
    assert "No licence is known" in (exports / "hf" / "LICENSE").read_text()
    card = (exports / "hf" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: unknown\nlibrary_name: transformers\n")
    count = sum(p.numel() for p in hf_model.parameters())
    for words in ("1. Imported: `model`, in the format hf.", f"| parameters | {count:,} |",
                  "Nothing was trained here", "Not known: whoever publishes", '"system": "janus"',
                  "JanusForConditionalGeneration.from_pretrained"):  # fmt: skip
        assert words in card, words
    assert licence_of(exports / "hf") == ({}, ())
    assert "VLChatProcessor" in (exports / "deepseek" / "README.md").read_text(encoding="utf-8")


RUN = {
    "stage": "finetune", "step": 1000,
    "config": {
        "system": "janus", "reproduces": "stage 3 of Janus-Pro on your own records", "seed": 7,
        "dtype": "bfloat16", "tokenizer": "/home/me/secret/tokenizer",
        "stage": {
            "optimizers": {"main": {"learning_rate": 1e-5, "schedule": "constant"}},
            "rules": [{"pattern": "vqmodel/", "frozen": True}, {"pattern": ""}],
            "ema_decay": 0.99,
        },
        "data": {
            "rows": 8, "row_length": 2048, "template": "janus_pro",
            "groups": [
                {"name": "und", "ratio": 5.0, "sources": [
                    {"name": "mine_describe", "task": "describe", "kind": "mixed",
                     "path": "/home/me/secret/mine.jsonl", "weight": 1.0}]},
            ],
        },
    },
}  # fmt: skip


def write_card(hf_dir, folder, before, licence=None):
    folder.mkdir()
    janus = interop("janus")
    sizes = {"parameters": "123"} | janus.sizes(read_sizes(hf_dir, "hf"))
    known = write_model_card(folder, "mine", janus, janus.formats[0], sizes, RUN, before, licence)
    return known, (folder / "README.md").read_text(encoding="utf-8")


def test_the_card_tells_stages_optimizer_and_data_but_no_folders(hf_dir, tmp_path):
    before = origin.Origin(({"imported": "Janus-Pro-1B", "format": "deepseek"},))
    known, card = write_card(hf_dir, tmp_path / "out", before)
    assert not known
    for words in ("1. Imported: `Janus-Pro-1B`", "2. Stage `finetune`", "1,000 steps",
                  "8 rows of 2048 tokens", "learning_rate 1e-05", "frozen: `vqmodel/`",
                  "decay 0.99", "seed 7", "| und | 5 | mine.jsonl | describe | mixed | 1 |  |",
                  '"pattern": "vqmodel/"'):  # fmt: skip
        assert words in card, words
    assert "secret" not in card


def test_licences_go_from_the_source_over_its_runs_to_the_export(hf_dir, tmp_path):
    source = tmp_path / "Janus-Pro-1B"
    shutil.copytree(hf_dir, source)
    front = "license: mit\nlicense_name: deepseek\nlicense_link: LICENSE\nevil: {x}"
    (source / "README.md").write_text(f"---\n{front}\n---\n# Janus\nlicense: gpl\n")
    (source / "LICENSE-MODEL").write_text("the text of it")
    (tmp_path / "private").write_text("not yours")
    (source / "LICENSE-link.txt").symlink_to(tmp_path / "private")
    (source / "license.safetensors").write_bytes(b"no text")
    fields, files = licence_of(source)
    assert fields == {"license": "mit", "license_name": "deepseek", "license_link": "LICENSE"}
    assert [f.name for f in files] == ["LICENSE-MODEL"]
    import_checkpoint(source, tmp_path / "run")
    done = export_checkpoint(tmp_path / "run", tmp_path / "out")
    assert (tmp_path / "out" / "LICENSE-MODEL").read_text() == "the text of it"
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\nlicense_name: deepseek\nlicense_link: LICENSE\n")
    assert not any("licence" in note for note in done.notes)
    # A run that starts from it carries them on.
    (tmp_path / "next").mkdir()
    origin.carry(tmp_path / "run", tmp_path / "next")
    carried = origin.read(tmp_path / "next")
    assert carried.licence == fields
    assert carried.history == ({"imported": "Janus-Pro-1B", "format": "hf"},)
    assert [f.read_text() for f in carried.files] == ["the text of it"]


def test_a_model_of_the_hub_is_named_as_there(hf_dir, tmp_path):
    snapshot = tmp_path / "models--deepseek-ai--Janus-Pro-1B" / "snapshots" / "1a2b3c"
    shutil.copytree(hf_dir, snapshot)
    import_checkpoint(snapshot, tmp_path / "run")
    export_checkpoint(tmp_path / "run", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "\nbase_model: deepseek-ai/Janus-Pro-1B\n" in card
    assert "1. Imported: `deepseek-ai/Janus-Pro-1B`, in the format hf." in card


def test_the_licence_may_be_given(run_dir, hf_dir, tmp_path):
    (tmp_path / "MINE").write_text("all mine")
    given = ["--license", str(tmp_path / "MINE")]
    assert main(["export", str(run_dir), str(tmp_path / "a"), *given]) == 0
    assert (tmp_path / "a" / "LICENSE").read_text() == "all mine"
    card = (tmp_path / "a" / "README.md").read_text()
    assert card.startswith("---\nlicense: other\nlicense_link: LICENSE\n")
    known, card = write_card(hf_dir, tmp_path / "b", origin.Origin(), "apache-2.0")
    assert known
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert (tmp_path / "b" / "LICENSE").read_text() == "license: apache-2.0\n"
    assert main(["export", str(run_dir), str(tmp_path / "c"), "--license", "no/such"]) == 2
    assert not (tmp_path / "c").exists()


def test_rows_of_the_vocabulary_beyond_the_tokenizer_are_told(run_dir, hf_dir, tmp_path):
    done = import_checkpoint(hf_dir, tmp_path / "run")
    ids = tokenizer_lib.load(run_dir / "tokenizer").vocab_size
    told = f"320 rows of the embedding and {ids} ids of the tokenizer: the last {320 - ids} rows"
    assert any(note.startswith(told) for note in done.notes)
    done = export_checkpoint(tmp_path / "run", tmp_path / "out")
    assert any(note.startswith(told) for note in done.notes)
    assert "note: " + told in str(done)


@pytest.fixture
def edited(hf_dir, tmp_path):
    """The small model with tensors changed by a function."""

    def make(change):
        source = tmp_path / "edited"
        shutil.copytree(hf_dir, source)
        tensors = load_file(source / "model.safetensors")
        change(tensors)
        save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
        return source

    return make


NORM = "model.language_model.layers.1.input_layernorm.weight"


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.int8, np.uint8])
def test_weights_that_are_no_real_numbers_are_refused(edited, tmp_path, dtype):
    source = edited(lambda t: t.update({NORM: t[NORM].astype(dtype)}))
    with pytest.raises(UserError, match=f"1 tensors that hold no real numbers .*{NORM} in "):
        import_checkpoint(source, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_numbers_that_are_none_are_told(edited, run_dir, tmp_path):
    def change(tensors):
        tensors[NORM][:3] = np.nan
        tensors["lm_head.weight"][0, 0] = -np.inf

    done = import_checkpoint(edited(change), tmp_path / "run")
    text = str(done)
    assert "note: numbers that are NaN or infinite: " in text
    assert "3 of 96 in model.language_model.layers.{i}.input_layernorm.weight" in text
    assert "1 of 10,240 in lm_head.weight" in text
    told = str(export_checkpoint(tmp_path / "run", tmp_path / "out"))
    assert f"3 of 32 in {NORM}" in told
    assert "1 of 10,240 in lm_head.weight" in told
    assert not any("NaN" in note for note in export_checkpoint(run_dir, tmp_path / "good").notes)


def test_numbers_that_do_not_fit_the_dtype_of_an_export_are_told(edited, tmp_path):
    source = edited(lambda t: t.update({NORM: t[NORM] + np.float32(1e5)}))
    import_checkpoint(source, tmp_path / "run")
    told = export_checkpoint(tmp_path / "run", tmp_path / "out", dtype="float16").notes
    assert f"numbers that are infinite in the dtype of the export: 32 of 32 in {NORM}" in told
    wide = export_checkpoint(tmp_path / "run", tmp_path / "wide", dtype=ml_dtypes.bfloat16)
    assert not any("infinite" in note for note in wide.notes)


def test_an_export_of_another_run_is_told_by_verify(run_dir, edited, tmp_path):
    source = edited(lambda tensors: None)
    path = source / "config.json"
    config = json.loads(path.read_text())
    config["text_config"]["rms_norm_eps"] = 1e-5
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="rms_norm_eps=1e-05 instead of 1e-06"):
        verify(run_dir, source)

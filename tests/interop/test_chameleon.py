"""Chameleon: transformers' directories and Meta's release, both ways; verified by transformers."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from transformers import ChameleonConfig as HFConfig
from transformers import ChameleonForConditionalGeneration, ChameleonProcessor

from tests.interop.conftest import SPECIAL, random_weights, write_run, write_tokenizer
from tests.interop.test_hostile import refusals
from unijax.core import tree
from unijax.core.errors import UserError
from unijax.core.vocab import SpecialIds
from unijax.data import tokenizer as tokenizers_of_data
from unijax.interop.exporting import export_checkpoint
from unijax.interop.importing import import_checkpoint, import_parts
from unijax.interop.interface import Import
from unijax.interop.opening import open_model
from unijax.interop.source_tokenizer import import_tokenizer
from unijax.interop.systems.chameleon.vocabulary import Codes, name_of
from unijax.interop.verify import verify
from unijax.models.llama import LlamaConfig
from unijax.models.vqgan import VQConfig
from unijax.systems.chameleon import ChameleonConfig
from unijax.train import checkpoint

WORDS, CODES, VOCAB = 320, 24, 352  # ids before the codes, codes, rows
ORDER = np.random.default_rng(3).permutation(CODES)  # ids of the codes, in another order
VQ = {
    "resolution": 32, "base_channels": 32, "channel_multiplier": [1, 2], "num_res_blocks": 1,
    "latent_channels": 8, "embed_dim": 6, "num_embeddings": CODES, "attn_resolutions": None,
}  # fmt: skip


# What the released tokenizers call them; their tokenizer_config.json names the first three alone.
RELEASED = {
    "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "boi_token": "<racm3:break>",
    "eoi_token": "<eoss>", "image_token": "<image>",
}  # fmt: skip


def write_chameleon_tokenizer(directory) -> dict[str, int]:
    """That of the other tests, with the released marks, and image codes in another order; ids of
    these by name."""
    write_tokenizer(directory)
    file = directory / "tokenizer.json"
    text = file.read_text(encoding="utf-8")
    for key, name in SPECIAL.items():
        text = text.replace(name, RELEASED[key])
    file.write_text(text, encoding="utf-8")
    named = {key: RELEASED[key] for key in ("bos_token", "eos_token", "pad_token")}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **named}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    library = tokenizers.Tokenizer.from_file(str(file))
    library.add_tokens([f"<filler {i}>" for i in range(WORDS - library.get_vocab_size())])
    by_id = sorted(range(CODES), key=lambda code: ORDER[code])
    library.add_tokens([name_of(code) for code in by_id])
    library.save(str(file))
    names = {name_of(code): WORDS + int(ORDER[code]) for code in range(CODES)}
    assert all(library.token_to_id(name) == i for name, i in names.items())
    return names


def hf_model(names: dict[str, int], swin: bool) -> ChameleonForConditionalGeneration:
    config = HFConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, swin_norm=swin, max_position_embeddings=128,
        tie_word_embeddings=False, vq_config=VQ, vocabulary_map={**names, "<image>": 5},
        bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    model = ChameleonForConditionalGeneration(config).eval()
    random_weights(model, 1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "q_norm" in name or "k_norm" in name:
                p.copy_(p[:1].expand_as(p))  # one scale for all heads, as released
    return model


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    directory = tmp_path_factory.mktemp("chameleon") / "hf"
    directory.mkdir()
    names = write_chameleon_tokenizer(directory)
    model = hf_model(names, swin=False)
    model.save_pretrained(directory)
    return directory, model


@pytest.fixture(scope="module")
def run(source, tmp_path_factory):
    """Imported from transformers' form, its decoder of pictures made at random."""
    directory = tmp_path_factory.mktemp("run") / "run"
    return directory, import_checkpoint(source[0], directory)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    base = tmp_path_factory.mktemp("out")
    notes = {}
    for format in ("hf", "meta"):
        notes[format] = export_checkpoint(run[0], base / format, format).notes
    return base, notes


def params_of(run_dir):
    return tree.flatten(checkpoint.read_params(run_dir))


def test_code_k_is_the_id_first_code_plus_k(source, run):
    theirs, (run_dir, done) = source[1].model.embed_tokens.weight.detach().numpy(), run
    assert done.config.first_code == WORDS
    assert not np.array_equal(ORDER, np.arange(CODES))
    ours = params_of(run_dir)["language_model/embed_tokens/embedding"]
    for code in range(CODES):
        np.testing.assert_array_equal(ours[WORDS + code], theirs[WORDS + ORDER[code]])
    np.testing.assert_array_equal(ours[:WORDS], theirs[:WORDS])
    np.testing.assert_array_equal(ours[WORDS + CODES :], theirs[WORDS + CODES :])


def test_the_marks_of_the_released_tokenizers_are_known(run, exported):
    special = tokenizers_of_data.load(run[0] / "tokenizer").special
    assert special == SpecialIds(eos=1, bos=0, pad=2, boi=3, eoi=4, image_placeholder=5)
    assert not any("finds marks by their names" in note for note in exported[1]["meta"])


def test_what_transformers_lacks_is_said(run):
    (told,) = [note for note in run[1].notes if "made at random" in note]
    assert told.endswith("made at random: vqmodel/decoder")


def test_it_equals_transformers_and_meta_in_both_forms(run, exported):
    for format in ("hf", "meta"):
        found = verify(run[0], exported[0] / format, tolerance=1e-5)
        assert found.ok, f"{format}\n{found}"
        assert [d.kind for d in found.differences] == ["text", "image", "latents", "codebook"]


def test_the_way_there_and_back_is_equal_to_the_bit(source, run, exported, tmp_path):
    again = ChameleonForConditionalGeneration.from_pretrained(exported[0] / "hf").state_dict()
    for name, x in source[1].state_dict().items():
        assert torch.equal(again[name], x), name
    before = params_of(run[0])
    for format in ("hf", "meta"):
        done = import_checkpoint(exported[0] / format, tmp_path / format)
        after = params_of(tmp_path / format)
        assert before.keys() == after.keys()
        for path, x in before.items():
            np.testing.assert_array_equal(after[path], x, err_msg=f"{format} {path}")
        text = dataclasses.replace(done.config.text, max_position_embeddings=128)  # Meta says none
        assert dataclasses.replace(done.config, text=text) == run[1].config
        assert not any("random" in note for note in done.notes)


def test_the_processor_prepares_pictures_as_here(exported):
    processor = ChameleonProcessor.from_pretrained(exported[0] / "hf")
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    inputs = processor(text="a red cat <image>", images=[picture], return_tensors="pt")
    assert int((inputs["input_ids"] == 5).sum()) == 256
    want = picture.transpose(2, 0, 1) / 127.5 - 1
    np.testing.assert_allclose(inputs["pixel_values"][0].numpy(), want, atol=1e-5)


def test_the_loader_of_metas_release_finds_all_that_it_asks_for(exported):
    """It wants `rope.freqs`, every name in the vocabulary of the tokenizer's model, and no begin of
    sequence before a text (`loader.py`, `TokenManager`)."""
    place = exported[0] / "meta"
    state = torch.load(place / "models" / "model" / "consolidated.pth")
    layer = [f"attention.{n}" for n in ("wq", "wk", "wv", "wo")]
    layer += ["feed_forward.w1", "feed_forward.w2", "feed_forward.w3", "attention_norm", "ffn_norm"]
    names = {f"layers.{i}.{name}.weight" for i in range(2) for name in layer}
    for norm in ("q_normalization", "k_normalization"):
        names |= {f"layers.{i}.attention.{norm}.{x}" for i in range(2) for x in ("weight", "bias")}
    names |= {"tok_embeddings.weight", "norm.weight", "output.weight", "rope.freqs"}
    assert state.keys() == names
    file = place / "tokenizer" / "text_tokenizer.json"
    words = json.loads(file.read_text(encoding="utf-8"))["model"]["vocab"]
    assert [words[RELEASED[key]] for key in SPECIAL] == list(range(6))
    assert words[name_of(3)] == WORDS + ORDER[3]
    library = tokenizers.Tokenizer.from_file(str(file))
    assert library.encode("<s>a red cat<eoss>").ids[0] == 0
    words_alone = library.encode("a red cat", add_special_tokens=False)
    assert library.encode("a red cat").ids == words_alone.ids
    assert library.get_vocab_size() == len(words)
    assert any("k-th least id" in note for note in exported[1]["meta"])


def fuse(directory, files: int) -> None:
    """Queries, keys and values in one matrix, and the two of SwiGLU, as Meta's code has them."""
    for i in range(files):
        name = "consolidated.pth" if files == 1 else f"consolidated.{i:02}.pth"
        path = directory / "models" / "model" / name
        state = torch.load(path)
        for layer in range(2):
            at = f"layers.{layer}"
            qkv = [state.pop(f"{at}.attention.w{n}.weight") for n in "qkv"]
            state[f"{at}.attention.wqkv.weight"] = torch.cat(qkv)
            gate = [state.pop(f"{at}.feed_forward.w{n}.weight") for n in "13"]
            state[f"{at}.feed_forward.w13.weight"] = torch.cat(gate)
        torch.save(state, path)


@pytest.mark.parametrize("files", [1, 2])
def test_files_of_model_parallel_training_and_fused_matrices_are_read(tmp_path, files):
    source = tmp_path / "hf"
    source.mkdir()
    model = hf_model(write_chameleon_tokenizer(source), swin=True)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if files == 2 and ("q_norm" in name or "k_norm" in name):
                p[p.shape[0] // 2 :] += 0.5  # of the heads of the second file
    model.save_pretrained(source)
    import_checkpoint(source, tmp_path / "run")
    export_checkpoint(tmp_path / "run", tmp_path / "meta", "meta")
    model_directory = tmp_path / "meta" / "models" / "model"
    written = sorted(p.name for p in model_directory.glob("*.pth"))
    many = ["consolidated.00.pth", "consolidated.01.pth"]
    assert written == (many if files == 2 else ["consolidated.pth"])
    fuse(tmp_path / "meta", files)
    found = verify(tmp_path / "run", tmp_path / "meta", tolerance=1e-5)
    assert found.ok, f"\n{found}"
    export_checkpoint(tmp_path / "run", tmp_path / "as hf", "hf")
    found = verify(tmp_path / "run", tmp_path / "as hf", tolerance=1e-5)
    assert found.ok, f"\n{found}"
    import_checkpoint(model_directory, tmp_path / "again")  # models/SIZE itself
    before, after = params_of(tmp_path / "run"), params_of(tmp_path / "again")
    for path, x in before.items():
        np.testing.assert_array_equal(after[path], x, err_msg=path)
    (model_directory / written[-1]).unlink()
    with pytest.raises(UserError, match=rf"1 of {files} shards missing"):
        import_checkpoint(tmp_path / "meta", tmp_path / "none")


def test_a_norm_for_every_head_is_no_form_of_metas(tmp_path):
    source = tmp_path / "hf"
    source.mkdir()
    model = hf_model(write_chameleon_tokenizer(source), swin=False)
    with torch.no_grad():
        model.model.layers[0].self_attn.q_norm.weight[1] += 1
    model.save_pretrained(source)
    import_checkpoint(source, tmp_path / "run")
    with pytest.raises(UserError, match="norms of queries: found one for every head"):
        export_checkpoint(tmp_path / "run", tmp_path / "meta", "meta")
    assert not (tmp_path / "meta").exists()


def test_a_folder_of_several_sizes_is_told(exported, tmp_path):
    shutil.copytree(exported[0] / "meta", tmp_path / "meta")
    models = tmp_path / "meta" / "models"
    shutil.copytree(models / "model", models / "other")
    with pytest.raises(UserError, match=r"models: found \['model', 'other'\]; expected one size"):
        import_checkpoint(tmp_path / "meta", tmp_path / "run")


def test_swapped_names_of_codes_are_seen(run, exported, tmp_path):
    shutil.copytree(exported[0] / "hf", tmp_path / "out")
    path = tmp_path / "out" / "config.json"
    content = json.loads(path.read_text())
    names = content["vocabulary_map"]
    one, other = name_of(3), name_of(7)
    names[one], names[other] = names[other], names[one]
    path.write_text(json.dumps(content))
    # The export holds together, and is another model.
    found = {d.kind: d.largest for d in verify(run[0], tmp_path / "out").differences}
    assert found["image"] > 1e-3
    assert found["latents"] < 1e-5


def test_codes_that_do_not_stand_together_are_refused(source, tmp_path):
    shutil.copytree(source[0], tmp_path / "in")
    path = tmp_path / "in" / "config.json"
    content = json.loads(path.read_text())
    content["vocabulary_map"][name_of(0)] = 7
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="with ids that stand together"):
        import_checkpoint(tmp_path / "in", tmp_path / "run")


@pytest.mark.parametrize(
    "key", [{"norm_type": "batch"}, {"codebook_l2_norm": True}, {"use_mid_attention": False}]
)
def test_another_image_tokenizer_is_refused_by_what_it_does_otherwise(source, tmp_path, key):
    shutil.copytree(source[0], tmp_path / "in")
    path = tmp_path / "in" / "config.json"
    content = json.loads(path.read_text())
    content["vq_config"] |= key
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"vq_config.{next(iter(key))}: found"):
        open_model(tmp_path / "in")


@pytest.mark.parametrize("format", ["hf", "meta"])
def test_changed_files_give_one_clear_error_or_are_read(exported, tmp_path, format):
    names = {
        "hf": ["config.json", "preprocessor_config.json", "tokenizer_config.json"],
        "meta": [
            "models/model/params.json", "models/model/consolidate_params.json",
            "tokenizer/vqgan.yaml", "tokenizer/text_tokenizer.json",
        ],
    }[format]  # fmt: skip

    def read(source):
        model = open_model(source)
        shutil.rmtree(tmp_path / "tokenizer", ignore_errors=True)
        place = model.format.tokenizer_of(model.directory)
        rows = model.config.text.vocab_size
        ours = import_tokenizer(place, tmp_path / "tokenizer", rows, [])
        model.format.record(Import(model.directory, model.config, ours, None, []))

    assert refusals(exported[0] / format, names, tmp_path, read, seed=0) > 20


def test_names_of_codes():
    assert name_of(4711) == "IMGIMGEHBBZ"
    codes = Codes.of({name_of(0): 9, name_of(1): 8, "<s>": 0}, "here")
    assert (codes.first, codes.ids.tolist()) == (8, [9, 8])
    assert codes.columns(10).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 9, 8]


UNIT = ChameleonConfig(
    LlamaConfig(VOCAB, 32, 48, 2, 4, 2, 8, 1e-5, qk_norm="layer_norm"),
    VQConfig(16, 32, (1, 2), 0, 16, 8, CODES), first_code=WORDS,
)  # fmt: skip


def test_a_model_trained_here_is_written_for_transformers(tmp_path):
    """Unit codes, no blocks in the encoder, attention in the coarsest level of the decoder, and a
    tokenizer that names no codes."""
    write_run(tmp_path / "run", "chameleon", UNIT)
    done = export_checkpoint(tmp_path / "run", tmp_path / "out")
    assert any("rows of the codebook are written at length 1" in note for note in done.notes)
    found = verify(tmp_path / "run", tmp_path / "out", tolerance=1e-5)
    assert found.ok, f"\n{found}"
    again = import_checkpoint(tmp_path / "out", tmp_path / "again")
    assert again.config.first_code == WORDS
    assert not again.config.vq.unit_codes
    saved = tokenizers_of_data.load(tmp_path / "again" / "tokenizer")
    assert saved.special == tokenizers_of_data.load(tmp_path / "run" / "tokenizer").special


def test_the_decoder_of_metas_tokenizer_is_a_part(source, exported, run, tmp_path):
    vqgan = exported[0] / "meta" / "tokenizer" / "vqgan.ckpt"
    config = run[1].config
    import_parts(tmp_path / "run", "chameleon", config, {"vq": vqgan}, tokenizer=source[0])
    before, after = params_of(run[0]), params_of(tmp_path / "run")
    for path in (p for p in before if p.startswith("vqmodel/")):
        np.testing.assert_array_equal(after[path], before[path], err_msg=path)


def test_a_decoder_that_is_damaged_is_told(run, exported, tmp_path):
    shutil.copytree(exported[0] / "hf", tmp_path / "out")
    file = tmp_path / "out" / "image_decoder.safetensors"
    tensors = load_file(file)
    tensors.pop("model.vqmodel.decoder.conv_out.bias")
    save_file(tensors, file)
    with pytest.raises(UserError, match=r"1 tensors missing \(model.vqmodel.decoder.conv_out.bias"):
        verify(run[0], tmp_path / "out")

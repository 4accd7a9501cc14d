"""Janus of transformers in, ours, and out again."""

import json
import shutil
import weakref

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, JanusForConditionalGeneration, JanusProcessor

from tests.interop.conftest import SPECIAL, random_weights, small_config, write_tokenizer
from unijax.core import tree
from unijax.core.errors import UserError
from unijax.core.record import to_json
from unijax.data import tokenizer as tokenizer_lib
from unijax.interop import exporting, importing
from unijax.interop.exporting import export_checkpoint
from unijax.interop.importing import import_checkpoint
from unijax.interop.opening import abstract_params, config_of
from unijax.interop.sources import open_directory
from unijax.interop.systems.janus.sizes import read_sizes
from unijax.interop.verify import verify
from unijax.train import checkpoint, streaming


def state_of(directory):
    source = open_directory(directory)
    return {name: source.read(name) for name in source.tensors}


def assert_states_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        assert found[name].dtype == x.dtype
        np.testing.assert_array_equal(found[name], x, err_msg=name)


def test_logits_of_an_imported_model_equal_the_oracle(run_dir, hf_dir):
    found = verify(run_dir, hf_dir, tolerance=1e-5)
    assert {d.kind for d in found.differences} == {
        "text", "understanding", "generation", "decoded", "latents"
    }  # fmt: skip
    assert found.ok, f"\n{found}"
    assert all(d.kl < 1e-9 for d in found.differences if d.kl is not None)


def test_every_tensor_comes_back_to_the_bit(export_dir, hf_model):
    theirs = {n: p.numpy() for n, p in hf_model.state_dict().items()}
    assert_states_equal(state_of(export_dir), theirs)


def test_transformers_loads_the_export_without_remainder(export_dir, hf_model):
    model, info = JanusForConditionalGeneration.from_pretrained(
        export_dir, output_loading_info=True
    )
    assert not any(info.values()), info
    assert model.config.text_config.to_dict().items() >= {
        "hidden_size": 32, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": False,
    }.items()  # fmt: skip
    assert model.lm_head.weight.data_ptr() != model.get_input_embeddings().weight.data_ptr()
    for name, x in hf_model.state_dict().items():
        assert torch.equal(model.state_dict()[name], x), name


def test_generate_of_the_export_equals_generate_of_the_original(export_dir, hf_model):
    model = JanusForConditionalGeneration.from_pretrained(export_dir)
    processor = JanusProcessor.from_pretrained(export_dir)
    inputs = processor(text=["a red cat"], generation_mode="image", return_tensors="pt")
    codes = model.generate(**inputs, generation_mode="image", do_sample=False)
    assert codes.shape == (1, 16)
    assert len(codes.unique()) > 3
    original = hf_model.generate(
        **inputs,
        generation_mode="image",
        do_sample=False,
        generation_config=model.generation_config,
    )
    assert torch.equal(codes, original)
    assert model.decode_image_tokens(codes).shape == (1, 8, 8, 3)

    picture = np.full((20, 64, 3), 200, np.uint8)
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]}],
        add_generation_prompt=True,
    )
    inputs = processor(text=prompt, images=[picture], return_tensors="pt")
    answer = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    assert torch.equal(answer, hf_model.generate(**inputs, max_new_tokens=6, do_sample=False))
    assert answer.shape[1] > inputs["input_ids"].shape[1]


def test_the_run_records_what_sampling_needs(run_dir):
    run = checkpoint.read_run(run_dir)
    assert (run["stage"], run["step"]) == ("import", 0)
    assert run["config"]["system"] == "janus"
    assert run["config"]["data"] == {
        "template": "janus_pro", "und_rounding": "round", "system_prompt": "", "row_length": 128
    }  # fmt: skip
    config = config_of(run, "here")[1]
    assert to_json(config) == run["config"]["model"]
    params = tree.flatten(checkpoint.read_params(run_dir))
    assert {p: x.shape for p, x in params.items()} == {
        p: x.shape for p, x in abstract_params("janus", config).items()
    }


def test_the_tokenizer_goes_with_the_weights(run_dir, hf_dir, export_dir):
    ours = tokenizer_lib.load(run_dir / "tokenizer")
    theirs = AutoTokenizer.from_pretrained(hf_dir)
    again = AutoTokenizer.from_pretrained(export_dir)
    assert ours.special.boi == theirs.convert_tokens_to_ids(SPECIAL["boi_token"])
    for text in ("a red cat", "Two  dogs\n\nêtre 猫 🙂", " 12"):
        assert ours.encode(text) == theirs(text, add_special_tokens=False).input_ids
        assert again(text).input_ids == [ours.special.bos, *ours.encode(text)]
        assert again.decode(again(text).input_ids, skip_special_tokens=True) == text


def test_bfloat16_stays_bfloat16(hf_dir, hf_model, tmp_path):
    source = tmp_path / "half"
    shutil.copytree(hf_dir, source)
    (source / "model.safetensors").unlink()
    JanusForConditionalGeneration.from_pretrained(hf_dir).bfloat16().save_pretrained(
        source, max_shard_size="500KB"
    )
    assert len(list(source.glob("*.safetensors"))) > 1
    import_checkpoint(source, tmp_path / "run")
    params = tree.flatten(checkpoint.read_params(tmp_path / "run"))
    assert {x.dtype for x in params.values()} == {np.dtype(ml_dtypes.bfloat16)}
    export_checkpoint(tmp_path / "run", tmp_path / "out", max_shard_bytes=500_000)
    assert_states_equal(state_of(tmp_path / "out"), state_of(source))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    export_checkpoint(tmp_path / "run", tmp_path / "wide", dtype=np.float32)
    assert {x.dtype for x in state_of(tmp_path / "wide").values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("said", [True, None])
def test_a_head_in_the_file_is_used_whatever_the_config_says_of_tying(
    hf_dir, hf_model, tmp_path, said
):
    # transformers' JanusConfig is tied by default; the released weights are not.
    source = tmp_path / "m"
    shutil.copytree(hf_dir, source)
    config = json.loads((source / "config.json").read_text())
    if said is None:
        del config["tie_word_embeddings"]
    else:
        config["tie_word_embeddings"] = said
    (source / "config.json").write_text(json.dumps(config))
    import_checkpoint(source, tmp_path / "run")
    params = tree.flatten(checkpoint.read_params(tmp_path / "run"))
    np.testing.assert_array_equal(
        params["language_model/lm_head/kernel"], hf_model.lm_head.weight.detach().numpy().T
    )


@pytest.mark.parametrize("there", ["model.language_model.embed_tokens.weight", "lm_head.weight"])
def test_a_tied_model_is_untied_and_said_so(tmp_path, there):
    """Whichever of both the file holds; transformers takes either."""
    model = JanusForConditionalGeneration(small_config(tie_word_embeddings=True)).eval()
    random_weights(model, 1)
    model.save_pretrained(tmp_path / "tied")
    write_tokenizer(tmp_path / "tied")
    assert "lm_head.weight" not in open_directory(tmp_path / "tied").tensors
    state = load_file(tmp_path / "tied" / "model.safetensors")
    state[there] = state.pop("model.language_model.embed_tokens.weight")
    save_file(state, tmp_path / "tied" / "model.safetensors", {"format": "pt"})
    done = import_checkpoint(tmp_path / "tied", tmp_path / "run")
    assert f"tied to {there}" in done.notes[0]
    assert verify(tmp_path / "run", tmp_path / "tied").ok
    export_checkpoint(tmp_path / "run", tmp_path / "out")
    assert verify(tmp_path / "run", tmp_path / "out").ok


def refused(hf_dir, tmp_path, change):
    source = tmp_path / "m"
    shutil.copytree(hf_dir, source)
    change(source)
    with pytest.raises(UserError) as error:
        import_checkpoint(source, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["m"], "something half-written"
    return str(error.value)


def edit(section, **values):
    def change(source):
        path = source / "config.json"
        config = json.loads(path.read_text())
        (config[section] if section else config).update(values)
        path.write_text(json.dumps(config))

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (edit("text_config", num_hidden_layers=4), "layers.3.input_layernorm.weight"),
        (edit("text_config", num_hidden_layers=2), "9 tensors that have no place"),
        (edit("text_config", intermediate_size=64), "[48, 32] instead of [64, 32]"),
        (
            edit("text_config", hidden_size="wide"),
            "hidden_size: found 'wide'; expected a whole number, 1 to 1,048,576",
        ),
        (
            edit("text_config", num_attention_heads=5),
            "expected a divisor of num_attention_heads=5",
        ),
        (edit("text_config", attention_bias=True), "attention_bias: found True"),
        (edit("text_config", rope_parameters={"rope_type": "llama3"}), "rope_type: found 'llama3'"),
        (edit("vision_config", hidden_act="gelu_pytorch_tanh"), "hidden_act: found 'gelu_pytorch_"),
        (edit("vision_config", use_qk_norm=True), "use_qk_norm: found True"),
        (edit("vq_config", image_token_embed_dim=64), "image_token_embed_dim: found 64"),
        (
            edit("", model_type="llava"),
            "found model_type 'llava'; expected one of",
        ),
        (lambda s: (s / "config.json").write_text("{"), "config.json: found"),
        (lambda s: (s / "config.json").unlink(), "no config.json"),
        (
            lambda s: (s / "model.safetensors").write_bytes(
                (s / "model.safetensors").read_bytes()[:-9]
            ),
            "a whole safetensors file",
        ),
        (lambda s: (s / "tokenizer.json").unlink(), "no such file"),
        (edit("text_config", vocab_size=100), "[320, 32] instead of [100, 32]"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(hf_dir, tmp_path, change, expected):
    assert expected in refused(hf_dir, tmp_path, change)


def test_existing_places_are_left_alone(run_dir, hf_dir, export_dir):
    with pytest.raises(UserError, match="something that exists already"):
        import_checkpoint(hf_dir, run_dir)
    with pytest.raises(UserError, match="something that exists already"):
        export_checkpoint(run_dir, export_dir)


def test_a_place_that_cannot_be_written_is_named(hf_dir, run_dir, tmp_path):
    (tmp_path / "file").write_text("not a directory")
    for act in (
        lambda: import_checkpoint(hf_dir, tmp_path / "file" / "run"),
        lambda: export_checkpoint(run_dir, tmp_path / "file" / "out"),
    ):
        with pytest.raises(UserError, match="a place that cannot be written"):
            act()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_runs_that_are_not_this_janus_are_not_exported(run_dir, tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        export_checkpoint(tmp_path, tmp_path / "out")
    for change, expected in (
        (lambda c: c.update(system="tokenizer"), "model of a tokenizer: found unknown key"),
        (lambda c: c.update(system="tokeniser"), "Did you mean 'tokenizer'?"),
        (lambda c: c["model"]["text"].update(num_hidden_layers=5), "(3, 32) instead of (5, 32)"),
    ):
        run = tmp_path / "run"
        shutil.copytree(run_dir, run)
        path = next((run / "checkpoints" / "0" / "run").glob("*metadata*"))
        content = json.loads(path.read_text())
        change(content["config"])
        del content["digest"]
        path.write_text(json.dumps(checkpoint.signed(content)))
        with pytest.raises(UserError) as error:
            export_checkpoint(run, tmp_path / "out")
        assert expected in str(error.value)
        assert not (tmp_path / "out").exists()
        shutil.rmtree(run)


def test_a_full_disk_is_seen_before_anything_is_written(hf_dir, run_dir, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="0 MB free"):
        import_checkpoint(hf_dir, tmp_path / "run")
    with pytest.raises(UserError, match="0 MB free"):
        export_checkpoint(run_dir, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_few_parameters_at_a_time(hf_dir, tmp_path, monkeypatch):
    """What is in memory together stays under the budget or is one parameter, both ways."""
    budget = 60_000
    monkeypatch.setattr(streaming, "GROUP_BYTES", budget)
    alive, most, real_read = [0], [0], importing.read_leaf

    def count(change):
        alive[0] += change
        most[0] = max(most[0], alive[0])

    def read(*args):
        array = real_read(*args)
        count(array.nbytes)
        weakref.finalize(array, count, -array.nbytes)
        return array

    monkeypatch.setattr(importing, "read_leaf", read)
    import_checkpoint(hf_dir, tmp_path / "run")
    config = read_sizes(hf_dir, "hf")
    sizes = {p: streaming.nbytes(a) for p, a in abstract_params("janus", config).items()}
    limit = max(budget, *sizes.values())
    assert limit < sum(sizes.values()) / 5
    assert max(sizes.values()) <= most[0] <= limit

    asked, real = [], exporting.StoredParams.read

    def few(self, paths):
        paths = list(paths)
        asked.append(sum(sizes[p] for p in paths))
        return real(self, paths)

    monkeypatch.setattr(exporting.StoredParams, "read", few)
    export_checkpoint(tmp_path / "run", tmp_path / "out")
    assert max(asked) <= limit
    assert sum(asked) == sum(sizes.values())
    assert len(asked) > 10

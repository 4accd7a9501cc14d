"""The parts that stage 1 starts from."""

import dataclasses
import json

import flax.linen as nn
import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from tests.interop.conftest import random_weights, small_config, write_tokenizer
from tests.interop.deepseek import llamagen_state
from unijax.core import tree
from unijax.core.errors import UserError
from unijax.interop import importing
from unijax.interop.exporting import export_checkpoint
from unijax.interop.importing import import_parts
from unijax.interop.systems.janus.sizes import read_sizes
from unijax.systems.janus import Janus
from unijax.train import checkpoint
from unijax.train.streaming import LazyArray

VISION = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
    image_size=64, patch_size=16,
)  # fmt: skip


@pytest.fixture(scope="module")
def config(hf_dir):
    return read_sizes(hf_dir, "hf")


@pytest.fixture(scope="module")
def llama():
    text = small_config().text_config
    model = LlamaForCausalLM(LlamaConfig(**{**text.to_dict(), "tie_word_embeddings": False})).eval()
    random_weights(model, 3)
    return model


@pytest.fixture(scope="module")
def parts(llama, hf_model, tmp_path_factory):
    """Directories and a file, each as its project writes it; the decoder in bfloat16."""
    base = tmp_path_factory.mktemp("parts")
    llama.bfloat16().save_pretrained(base / "llama")
    llama.float()
    write_tokenizer(base / "llama")
    text = SiglipTextConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        vocab_size=30, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    siglip = SiglipModel(SiglipConfig(text_config=text.to_dict(), vision_config=VISION))
    random_weights(siglip, 4)
    siglip.save_pretrained(base / "siglip")
    tower = SiglipVisionModel(SiglipVisionConfig(**VISION))
    random_weights(tower, 5)
    tower.save_pretrained(base / "tower")
    state = llamagen_state(
        {n: x for n, x in hf_model.state_dict().items() if n.startswith("model.vqmodel.")}
    )
    torch.save({"model": state, "steps": 5, "args": {}}, base / "vq.pt")
    return base, siglip, tower


@pytest.fixture(scope="module")
def assembled(parts, config, tmp_path_factory):
    base, *_ = parts
    run = tmp_path_factory.mktemp("run") / "run"
    done = import_parts(
        run,
        "janus",
        config,
        {"llama": base / "llama", "siglip": base / "siglip", "vq": base / "vq.pt"},
        seed=7,
    )
    return run, done, tree.flatten(checkpoint.read_params(run))


@pytest.fixture
def zeros(monkeypatch):
    """What is not given becomes zeros: making it at random takes long to compile."""

    def lazy_zeros(system, config, paths, abstract, seed):
        return {p: _zeros(abstract[p].shape) for p in paths}

    monkeypatch.setattr(importing, "_fresh", lazy_zeros)


def _zeros(shape):
    return LazyArray(shape, np.dtype(np.float32), lambda: np.zeros(shape, np.float32))


def test_each_part_is_where_it_belongs(assembled, parts, llama, run_dir):
    _, siglip, _ = parts
    _, _, params = assembled
    attention = llama.model.layers[2].self_attn
    np.testing.assert_array_equal(
        params["language_model/layers/self_attn/k_proj/kernel"][2],
        attention.k_proj.weight.detach().numpy().T.astype(ml_dtypes.bfloat16),
    )
    np.testing.assert_array_equal(
        params["vision_model/encoder/layers/self_attn/projection_layer/kernel"][1],
        siglip.vision_model.encoder.layers[1].self_attn.out_proj.weight.detach().numpy().T,
    )
    whole = tree.flatten(checkpoint.read_params(run_dir))
    codes = [p for p in whole if p.startswith("vqmodel/")]
    assert len(codes) > 100
    for path in codes:
        np.testing.assert_array_equal(params[path], whole[path], err_msg=path)


def test_the_rest_is_what_training_would_start_with(assembled, config):
    _, _, params = assembled
    own = [
        p for p in params if p.split("/")[0] not in ("language_model", "vision_model", "vqmodel")
    ]
    assert {p.split("/")[0] for p in own} == {
        "aligner", "generation_embeddings", "generation_aligner", "generation_head"
    }  # fmt: skip
    system = Janus(config)
    key = jax.random.split(jax.random.key(7), 7)[3]  # of the fourth part
    fresh = nn.unbox(jax.jit(system.aligner.init)(key, np.zeros((1, 1, 32), np.float32)))["params"]
    for path, x in tree.flatten({"aligner": fresh}).items():
        np.testing.assert_allclose(params[path], x, rtol=1e-5, atol=1e-8, err_msg=path)
    assert all(np.any(params[p]) for p in own if not p.endswith("bias"))


def test_the_decoder_keeps_its_dtype_and_the_tokenizer_comes_along(assembled):
    run, done, params = assembled
    dtypes = {p.split("/")[0]: x.dtype for p, x in params.items()}
    assert dtypes["language_model"] == ml_dtypes.bfloat16
    assert dtypes["aligner"] == np.float32
    assert (run / "tokenizer" / "tokenizer.json").is_file()
    assert "trained with gelu_tanh; the config says gelu" in done.notes[0]


def test_a_tower_saved_alone_fits_too(parts, config, tmp_path, zeros):
    base, _, tower = parts
    import_parts(tmp_path / "run", "janus", config, {"siglip": base / "tower"})
    params = tree.flatten(checkpoint.read_params(tmp_path / "run"))
    inner = getattr(tower, "vision_model", tower)
    np.testing.assert_array_equal(
        params["vision_model/post_layernorm/scale"], inner.post_layernorm.weight.detach().numpy()
    )


def test_without_a_decoder_there_may_be_no_tokenizer_and_that_is_said(
    parts, config, tmp_path, zeros
):
    done = import_parts(tmp_path / "run", "janus", config, {"vq": parts[0] / "vq.pt"})
    assert any("no tokenizer was given" in note for note in done.notes)
    with pytest.raises(UserError, match="no such file"):
        export_checkpoint(tmp_path / "run", tmp_path / "out")


def test_features_before_the_last_norm_have_no_norm(parts, config, tmp_path, zeros):
    vision = dataclasses.replace(config.vision, features="pre_norm", hidden_act="gelu_tanh")
    config = dataclasses.replace(config, vision=vision)
    done = import_parts(tmp_path / "run", "janus", config, {"siglip": parts[0] / "siglip"})
    params = tree.flatten(checkpoint.read_params(tmp_path / "run"))
    assert not any("post_layernorm" in p for p in params if p.startswith("vision_model"))
    assert not any("trained with" in note for note in done.notes)


@pytest.mark.parametrize(
    ("part", "change", "expected"),
    [
        ("llama", {"text": {"num_hidden_layers": 2}}, "num_hidden_layers=3 instead of 2"),
        ("llama", {"text": {"rms_norm_eps": 1e-5}}, "rms_norm_eps=1e-06 instead of 1e-05"),
        ("siglip", {"vision": {"image_size": 32}}, "image_size=64 instead of 32"),
        ("vq", {"vq": {"num_embeddings": 64}}, "[48, 8] instead of [64, 8]"),
        ("vq", {"vq": {"unit_codes": False}}, "compared by angle"),
    ],
)
def test_parts_of_other_sizes_are_refused(parts, config, tmp_path, part, change, expected):
    ((section, values),) = change.items()
    other = dataclasses.replace(
        config, **{section: dataclasses.replace(getattr(config, section), **values)}
    )
    path = parts[0] / ("vq.pt" if part == "vq" else part)
    with pytest.raises(UserError) as error:
        import_parts(tmp_path / "run", "janus", other, {part: path})
    assert expected in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_wrong_place_is_named(parts, config, tmp_path):
    base = parts[0]
    for given in ({"vq": base / "llama"}, {"llama": base / "vq.pt"}, {"siglip": base / "none"}):
        with pytest.raises(UserError, match="Correct the path"):
            import_parts(tmp_path / "run", "janus", config, given)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UserError, match="instead of"):
        import_parts(tmp_path / "run", "janus", config, {"llama": tmp_path})


def test_a_part_that_the_system_does_not_have_is_named(config, tmp_path):
    with pytest.raises(UserError) as error:
        import_parts(tmp_path / "run", "janus", config, {"clip": tmp_path})
    assert "--part clip: found no part 'clip' of the system 'janus'" in str(error.value)
    assert "--part siglip=a directory of a transformers SiglipModel" in str(error.value)

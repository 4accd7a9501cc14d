"""Models that look like Llama, SigLIP or this image tokenizer by their tensors, and are not."""

import json

import pytest
from transformers import (
    AutoConfig,
    LlamaConfig,
    MistralConfig,
    MistralForCausalLM,
    SiglipConfig,
)

from tests.interop.deepseek import deepseek_config
from unijax.core.errors import UserError
from unijax.interop.config_parts import llama_config, siglip_config
from unijax.interop.importing import import_parts
from unijax.interop.systems.janus.sizes import read_sizes

SMALL = dict(
    vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
)  # fmt: skip


def plain(**changes):
    values = json.loads(LlamaConfig(**SMALL).to_json_string(use_diff=False))
    return values | changes


def refusal(values):
    with pytest.raises(UserError) as error:
        llama_config(values, "config.json: text_config", [])
    return str(error.value)


def test_a_llama_of_any_release_is_taken_and_nothing_is_told():
    notes = []
    config = llama_config(plain(), "here", notes)
    assert (config.hidden_size, config.head_dim, config.rope_theta) == (32, 8, 10000.0)
    old = {"rope_theta": 5e5, "rope_scaling": None, "pretraining_tp": 1, "torch_dtype": "bfloat16"}
    old |= {"_name_or_path": "x/y", "transformers_version": "4.33.1", "attention_dropout": 0.1}
    assert llama_config(SMALL | old, "here", notes).rope_theta == 5e5
    assert notes == []


@pytest.mark.parametrize(
    "kind",
    ["mistral", "granite", "gemma", "gemma2", "helium", "qwen2", "qwen3", "phi", "phi3", "olmo",
     "olmo2", "cohere", "cohere2", "stablelm", "starcoder2", "smollm3", "glm", "glm4", "nemotron",
     "exaone4", "seed_oss", "diffllama", "ministral", "arcee", "apertus", "bitnet", "ernie4_5",
     "mixtral", "llama4_text", "gpt_neox", "persimmon", "doge"],
)  # fmt: skip
def test_another_decoder_is_refused_by_its_name(kind):
    values = AutoConfig.for_model(kind).to_dict()
    assert f"model_type: found '{kind}'; expected 'llama'" in refusal(SMALL | values)


@pytest.mark.parametrize(
    "kind",
    ["mistral", "granite", "gemma", "gemma2", "cohere", "cohere2", "olmo", "exaone4", "smollm3",
     "ministral", "arcee", "apertus", "nemotron", "mixtral", "llama4_text", "bitnet", "bloom",
     "diffllama", "dbrx", "lfm2", "rwkv", "xlnet"],
)  # fmt: skip
def test_a_renamed_one_is_refused_by_what_it_does_otherwise(kind):
    values = AutoConfig.for_model(kind).to_dict() | SMALL
    if kind == "olmo":
        values["clip_qkv"] = 8.0
    if kind in ("granite", "cohere", "cohere2"):
        assert any(key in values for key in ("logits_scaling", "logit_scale"))
    values |= {
        "model_type": "llama",
        "architectures": None,
        "layer_types": values.get("layer_types"),
    }
    assert "This model has no other kind." in refusal(values)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"sliding_window": 4096}, "sliding_window"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"layer_types": ["full_attention", "sliding_attention", "full_attention"]}, "layer_types"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"no_rope_layers": [1, 0, 1]}, "no_rope_layers"),
        ({"attention_multiplier": 0.5}, "attention_multiplier"),
        ({"attention_multiplier": 1.0}, "attention_multiplier"),
        ({"embedding_multiplier": 12}, "embedding_multiplier"),
        ({"residual_multiplier": 0.22}, "residual_multiplier"),
        ({"logits_scaling": 8.0}, "logits_scaling"),
        ({"logit_scale": 0.0625}, "logit_scale"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"clip_qkv": 6.0}, "clip_qkv"),
        ({"use_qk_norm": True}, "use_qk_norm"),
        ({"qk_layernorm": True}, "qk_layernorm"),
        ({"attention_bias": True}, "attention_bias"),
        ({"attention_bias": 1}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"qkv_bias": True}, "qkv_bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"hidden_act": None}, "hidden_act"),
        ({"hidden_activation": "gelu_pytorch_tanh"}, "hidden_activation"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"per_layer_config": {"0": {"hidden_act": "gelu"}}}, "per_layer_config"),
        ({"num_local_experts": 8}, "num_local_experts"),
        ({"architectures": ["MistralForCausalLM"]}, "architectures"),
        ({"architectures": ["Llama4ForCausalLM"]}, "architectures"),
        ({"architectures": ["LlamaBidirectionalModel"]}, "architectures"),
        ({"architectures": 5}, "architectures"),
        ({"auto_map": {"AutoModelForCausalLM": "modeling_x.XForCausalLM"}}, "auto_map"),
        ({"model_type": None}, "model_type"),
    ],
)
def test_what_changes_the_function_is_refused_by_name(changes, key):
    message = refusal(plain(**changes))
    assert f"text_config.{key}: found" in message


@pytest.mark.parametrize("place", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("key", ["rope_type", "type"])
@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn", "llama3", "longrope", "su", 5])
def test_scaled_rotary_positions_are_refused_in_either_place_and_key(place, key, kind):
    values = {k: v for k, v in plain().items() if not k.startswith("rope")}
    values[place] = {key: kind, "factor": 4.0}
    assert f"{place}.{key}: found" in refusal(values)


@pytest.mark.parametrize(
    "rope",
    [{"factor": 4.0}, {"partial_rotary_factor": 0.5}, {"mscale": 1.0}, {"long_factor": [1.0]},
     {"full_attention": {"rope_type": "default"}}, {"rope_type": "default", "attention_factor": 2}],
)  # fmt: skip
def test_parameters_of_rotary_positions_that_say_more_are_refused(rope):
    values = {k: v for k, v in plain().items() if not k.startswith("rope")}
    assert "rope_parameters" in refusal(values | {"rope_parameters": rope})


def test_the_base_may_stand_in_any_place_but_must_be_one():
    bare = {k: v for k, v in plain().items() if not k.startswith("rope")}
    for values in (
        {"rope_theta": 7.0},
        {"rope_parameters": {"rope_theta": 7.0, "rope_type": "default"}},
        {"rope_scaling": {"type": "default"}, "rope_theta": 7.0},
        {"rope_theta": 7.0, "rope_parameters": {"rope_theta": 7.0, "rope_type": "default"}},
        {"rope_theta": 7.0, "rope_parameters": {}, "rope_scaling": None},
    ):
        assert llama_config(bare | values, "here", []).rope_theta == 7.0
    assert llama_config(bare, "here", []).rope_theta == 10000.0
    two = {"rope_theta": 7.0, "rope_parameters": {"rope_theta": 8.0, "rope_type": "default"}}
    assert "rope_theta: found [7.0, 8.0]" in refusal(bare | two)


def test_a_key_that_nobody_knows_is_told():
    notes = []
    llama_config(plain(frobnicate=3, nothing=None), "config.json: text_config", notes)
    assert notes == [
        "config.json: text_config.frobnicate=3 is not known here; it is taken to change nothing"
    ]


def test_a_whole_mistral_with_a_window_is_not_imported_as_a_llama(hf_dir, tmp_path):
    # Every tensor fits: only its config says that it is another function.
    MistralForCausalLM(MistralConfig(sliding_window=4, **SMALL)).save_pretrained(tmp_path / "m")
    config = read_sizes(hf_dir, "hf")
    with pytest.raises(UserError, match="model_type: found 'mistral'"):
        import_parts(tmp_path / "run", "janus", config, {"llama": tmp_path / "m"})
    assert not (tmp_path / "run").exists()


def edited(hf_dir, tmp_path, section, changes):
    content = json.loads((hf_dir / "config.json").read_text())
    content[section] |= changes
    (tmp_path / "config.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("vision_config", {"model_type": "siglip_vision_model"}),
        ("vision_config", {"model_type": "dinov2"}),
        ("vision_config", {"intermediate_size": 64}),
        ("vision_config", {"layerscale_value": 0.1}),
        ("vision_config", {"use_mean_pooling": True}),
        ("vision_config", {"num_register_tokens": 4}),
        ("vision_config", {"qkv_bias": False}),
        ("vision_config", {"attention_bias": False}),
        ("vision_config", {"num_channels": 1}),
        ("vision_config", {"num_image_tokens": 4}),
        ("vision_config", {"quantization_config": {"bits": 4}}),
        ("vq_config", {"model_type": "chameleon_vqgan"}),
        ("vq_config", {"attn_type": "linear"}),
        ("vq_config", {"attn_resolutions": [16]}),
        ("vq_config", {"double_latent": True}),
        ("vq_config", {"norm_type": "batch"}),
        ("vq_config", {"codebook_l2_norm": False}),
        ("vq_config", {"hidden_act": "silu"}),
        ("vq_config", {"num_hidden_layers": 1}),
        ("vq_config", {"depth": 3}),
        ("vq_config", {"in_channels": 1}),
        ("text_config", {"model_type": "qwen2"}),
    ],
)
def test_other_towers_and_image_tokenizers_are_refused_by_name(hf_dir, tmp_path, section, changes):
    with pytest.raises(UserError) as error:
        read_sizes(edited(hf_dir, tmp_path, section, changes), "hf")
    assert f"{section}.{next(iter(changes))}: found" in str(error.value)


@pytest.mark.parametrize(
    "part",
    ["vision_config", "aligner_config", "gen_vision_config", "gen_aligner_config",
     "gen_head_config"],
)  # fmt: skip
def test_a_part_of_another_name_is_refused_in_deepseeks_form(hf_model, tmp_path, part):
    content = deepseek_config()
    kind = part.removesuffix("_config")
    content[part]["model_type"] = kind
    (tmp_path / "config.json").write_text(json.dumps(content))
    read_sizes(tmp_path, "deepseek")
    content[part]["model_type"] = "dinov2"
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"{part}.model_type: found 'dinov2'; expected '{kind}'"):
        read_sizes(tmp_path, "deepseek")


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": ["JanusFlowForConditionalGeneration"]},
        {"architectures": "JanusForConditionalGeneration"},
        {"auto_map": {"AutoModel": "modeling_x.X"}},
    ],
)
def test_another_class_or_code_of_its_own_is_refused_at_the_top(hf_dir, tmp_path, changes):
    """`model_type` alone was looked at."""
    for form, values in (
        ("hf", json.loads((hf_dir / "config.json").read_text())),
        ("deepseek", deepseek_config()),
    ):
        (tmp_path / "config.json").write_text(json.dumps(values | changes))
        with pytest.raises(UserError, match=rf"config\.json\.{next(iter(changes))}: found"):
            read_sizes(tmp_path, form)


@pytest.mark.parametrize("kind", ["siglip2", "siglip2_vision_model", "clip_vision_model", "janus"])
def test_other_towers_are_refused_as_parts(tmp_path, kind):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "vision_config": {}}))
    with pytest.raises(UserError, match=f"model_type: found '{kind}'"):
        siglip_config(tmp_path, [])


def test_a_siglip_of_transformers_says_nothing_unknown(tmp_path):
    notes = []
    SiglipConfig().save_pretrained(tmp_path)
    assert siglip_config(tmp_path, notes).image_size == 224
    SiglipConfig().vision_config.save_pretrained(tmp_path)
    assert siglip_config(tmp_path, notes).patch_size == 16
    assert notes == []

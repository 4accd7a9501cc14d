"""The small files of every released Janus, beside the weights of the small model of the tests.

What stands in them was read in stored copies of the files and in code that loads them:
deepseek-ai/Janus-1.3B (and its first release, without a token for padding), Janus-Pro-1B and -7B;
deepseek-community/Janus-Pro-1B and -7B in the form of transformers.
"""

import json
import pathlib

import tokenizers
import torch
from safetensors.torch import save_file
from tokenizers import decoders, models, pre_tokenizers, trainers

from tests.interop.deepseek import deepseek_config, deepseek_state

LAYOUTS = ("janus_1.3b", "janus_1.3b_first", "pro_1b", "pro_7b", "community_1b", "community_7b")
DEEPSEEK = LAYOUTS[:4]
TEMPLATES = {name: "janus" if name.startswith("janus") else "janus_pro" for name in LAYOUTS}
FORMATS = {name: "deepseek" if name in DEEPSEEK else "hf" for name in LAYOUTS}

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
ROLES = ["<|User|>", "<|Assistant|>"]
OTHERS = ["<patch_placeholder>", "<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>", "<|grounding|>"]
IMAGE = ["<image_placeholder>", "<begin_of_image>", "<end_of_image>"]
VOCAB = 320  # rows of the embedding; the tokenizer has fewer ids


def write_layout(name: str, hf_model: torch.nn.Module, directory: pathlib.Path) -> None:
    """Writes a whole model directory, in bfloat16."""
    directory.mkdir()
    roles = [] if TEMPLATES[name] == "janus" else ROLES
    pad = [] if name == "janus_1.3b_first" else [PAD]
    _tokenizer(directory, [BOS, EOS, *pad, *IMAGE, *OTHERS, *roles])
    if name in DEEPSEEK:
        _deepseek(name, hf_model, directory, pad, roles)
    else:
        _community(name, hf_model, directory)


def _tokenizer(directory: pathlib.Path, special: list[str]) -> None:
    """Byte-level BPE; like DeepSeek's it has single letters among its added tokens."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - 8 - len(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["a red cat on the mat, two blue dogs"] * 50, trainer)
    tokenizer.add_tokens(["ø", "ö"])
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(directory / "tokenizer.json"))


def _deepseek(name, hf_model, directory, pad, roles) -> None:
    config = deepseek_config()
    # The released ones say no more of the decoder than this.
    config["language_config"] |= {"max_position_embeddings": 16384}
    config |= {"torch_dtype": "bfloat16", "transformers_version": "4.33.1"}
    for section, kind in (("vision_config", "vision"), ("aligner_config", "aligner")):
        config[section]["model_type"] = kind
        if f"gen_{section}" in config:
            config[f"gen_{section}"]["model_type"] = f"gen_{kind}"
    config["gen_head_config"]["model_type"] = "gen_head"
    _json(directory / "config.json", config)
    state = {n: x.bfloat16().contiguous() for n, x in deepseek_state(hf_model).items()}
    if name.startswith("janus"):
        save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    elif name == "pro_1b":
        torch.save(state, directory / "pytorch_model.bin")
    else:
        names, weight_map = sorted(state), {}
        for i, part in enumerate((names[::2], names[1::2])):
            file = f"pytorch_model-{i + 1:05d}-of-00002.bin"
            torch.save({n: state[n] for n in part}, directory / file)
            weight_map |= dict.fromkeys(part, file)
        index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
        _json(directory / "pytorch_model.bin.index.json", index)
    _json(
        directory / "tokenizer_config.json",
        {
            "add_bos_token": True, "add_eos_token": False, "bos_token": BOS,
            "clean_up_tokenization_spaces": False, "eos_token": EOS, "legacy": True,
            "model_max_length": 16384, "pad_token": None, "sp_model_kwargs": {},
            "tokenizer_class": "LlamaTokenizer", "unk_token": None,
            "use_default_system_prompt": True,
        },
    )  # fmt: skip
    special = {
        "additional_special_tokens": ["<image_placeholder>", *OTHERS, *roles],
        "bos_token": BOS,
        "eos_token": EOS,
    }
    _json(directory / "special_tokens_map.json", special | ({"pad_token": PAD} if pad else {}))
    _json(
        directory / "processor_config.json",
        {
            "add_special_token": False, "ignore_id": -100, "image_tag": "<image_placeholder>",
            "mask_prompt": True, "num_image_tokens": 16, "processor_class": "VLChatProcessor",
            "sft_format": "deepseek",
        },
    )  # fmt: skip
    _json(
        directory / "preprocessor_config.json",
        {
            "background_color": [127, 127, 127], "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5], "image_processor_type": "VLMImageProcessor",
            "image_size": 64, "image_std": [0.5, 0.5, 0.5], "min_size": 14,
            "processor_class": "VLChatProcessor", "rescale_factor": 0.00392156862745098,
        },
    )  # fmt: skip


def _community(name, hf_model, directory) -> None:
    half = type(hf_model)(hf_model.config).bfloat16()
    half.load_state_dict({n: x.bfloat16() for n, x in hf_model.state_dict().items()})
    half.save_pretrained(directory, max_shard_size="200KB" if name == "community_7b" else "5GB")
    ids = json.loads((directory / "tokenizer.json").read_text())["added_tokens"]
    ids = {token["content"]: token["id"] for token in ids}
    special = {"bos_token_id": ids[BOS], "eos_token_id": ids[EOS], "pad_token_id": ids[PAD]}
    path = directory / "config.json"
    config = json.loads(path.read_text())
    # Written by a release of transformers 4; nothing says that the head is not the embedding.
    text = config["text_config"]
    rope = text.pop("rope_parameters")
    text |= {"rope_theta": rope["rope_theta"], "rope_scaling": None, "torch_dtype": "bfloat16"}
    text |= {"max_position_embeddings": 16384, **special}
    text.pop("architectures", None)
    config["vq_config"]["depth"] = 2
    config["image_token_id"] = ids["<image_placeholder>"]
    config |= {"torch_dtype": "bfloat16", "transformers_version": "4.52.0.dev0"}
    config.pop("tie_word_embeddings", None)
    _json(path, config)
    _json(
        directory / "generation_config.json",
        {
            "_from_model_config": True, **special, "guidance_scale": 5,
            "generation_kwargs": {"boi_token_id": ids["<begin_of_image>"]},
        },
    )  # fmt: skip
    added = {
        str(i): {
            "content": token, "lstrip": False, "normalized": False, "rstrip": False,
            "single_word": False, "special": True,
        }
        for token, i in ids.items()
        if len(token) > 1
    }  # fmt: skip
    extra = {
        "image_token": "<image_placeholder>", "boi_token": "<begin_of_image>",
        "eoi_token": "<end_of_image>",
    }  # fmt: skip
    _json(
        directory / "tokenizer_config.json",
        {
            "add_bos_token": True, "add_prefix_space": None, "added_tokens_decoder": added,
            "additional_special_tokens": ["<image_placeholder>", *OTHERS, *ROLES],
            "bos_token": BOS, "clean_up_tokenization_spaces": False, "eos_token": EOS,
            "extra_special_tokens": extra, **extra, "legacy": True, "model_max_length": 16384,
            "pad_token": PAD, "processor_class": "JanusProcessor",
            "tokenizer_class": "LlamaTokenizerFast", "unk_token": None,
            "use_default_system_prompt": True,
        },
    )  # fmt: skip
    spelled = {"content": EOS, "lstrip": False, "normalized": False, "rstrip": False}
    special = {"bos_token": BOS, "eos_token": spelled, "pad_token": PAD, **extra}
    _json(directory / "special_tokens_map.json", special)
    _json(
        directory / "processor_config.json",
        {
            "num_image_tokens": 16, "processor_class": "JanusProcessor",
            "use_default_system_prompt": True,
        },
    )  # fmt: skip
    _json(
        directory / "preprocessor_config.json",
        {
            "background_color": [127, 127, 127], "do_convert_rgb": None, "do_normalize": True,
            "do_pad": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5, 0.5, 0.5],
            "image_processor_type": "JanusImageProcessor", "image_std": [0.5, 0.5, 0.5],
            "min_size": 14, "processor_class": "JanusProcessor", "resample": 3,
            "rescale_factor": 0.00392156862745098, "size": {"height": 64, "width": 64},
        },
    )  # fmt: skip
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


# It writes what the released one does of a user and an assistant in turn.
CHAT_TEMPLATE = (
    "{%for m in messages%}{%if m.role=='user'%}<|User|>: {%else%}<|Assistant|>: {%endif%}"
    "{%for part in m.content%}{%if part.type=='image'%}<image_placeholder>{{'\n'}}"
    "{%else%}{{part.text}}{%endif%}{%endfor%}"
    "{%if m.role=='user'%}{{'\n\n'}}{%else%}" + EOS + "{%endif%}{%endfor%}"
    "{%if add_generation_prompt%}<|Assistant|>:{%endif%}"
)


def _json(path: pathlib.Path, content: dict) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")

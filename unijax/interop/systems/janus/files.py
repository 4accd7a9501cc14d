"""The files beside the weights: configs, generation defaults, tokenizer, processors."""

import json
import pathlib

from unijax.core.json_files import write_object
from unijax.data import tokenizer as tokenizer_lib
from unijax.data.special_tokens import HF_KEYS
from unijax.data.templates import TEMPLATES
from unijax.interop.config_files import special_ids
from unijax.interop.hf_tokenizer import token_of, write_hf_tokenizer
from unijax.interop.interface import Export
from unijax.interop.source_tokenizer import tell_padding
from unijax.interop.systems.janus.chat_template import chat_template
from unijax.interop.systems.janus.configs import deepseek_config, hf_config
from unijax.interop.systems.janus.processor import (
    ROUNDING,
    SYSTEM_PROMPT,
    Preparation,
    preparation,
    sft_format,
)

GUIDANCE = 5.0  # default of image generation, arXiv 2410.13848 section 4.1


def write_hf_files(export: Export) -> dict[str, str]:
    """What `JanusForConditionalGeneration` and `JanusProcessor` load beside the weights."""
    directory, config, dtype = export.directory, export.config, export.dtype
    done, tokenizer = preparation(export.run), export.tokenizer
    ours = tokenizer_lib.load(tokenizer)
    special = ours.special
    write_object(directory / "config.json", hf_config(config, dtype, special))
    generation = {
        **special_ids(special),
        "guidance_scale": GUIDANCE,
        "generation_kwargs": {"boi_token_id": special.boi},
    }
    write_object(directory / "generation_config.json", generation)
    write_hf_tokenizer(tokenizer, directory, config.text.max_position_embeddings)
    write_object(
        directory / "preprocessor_config.json",
        {
            "image_processor_type": "JanusImageProcessor",
            "processor_class": "JanusProcessor",
            "do_resize": True,
            "resample": 3,  # bicubic
            "size": {"height": config.vision.image_size, "width": config.vision.image_size},
            "do_pad": True,
            "do_convert_rgb": True,
            **_pixels(),
        },
    )
    write_object(
        directory / "processor_config.json",
        {
            "processor_class": "JanusProcessor",
            "num_image_tokens": config.vision.num_tokens,
            "use_default_system_prompt": done.system_prompt == SYSTEM_PROMPT,
        },
    )
    template = TEMPLATES[done.template]
    text = chat_template(template, token_of(ours, "image_placeholder"), token_of(ours, "eos"))
    (directory / "chat_template.jinja").write_text(text, encoding="utf-8")
    return _told(export, "hf", ours, done)


def write_deepseek_files(export: Export) -> dict[str, str]:
    """What the code of deepseek-ai/Janus loads beside the weights."""
    directory, config, dtype = export.directory, export.config, export.dtype
    done, tokenizer = preparation(export.run), export.tokenizer
    ours = tokenizer_lib.load(tokenizer)
    write_object(directory / "config.json", deepseek_config(config, dtype, ours.special))
    write_object(directory / "generation_config.json", special_ids(ours.special))
    write_hf_tokenizer(tokenizer, directory, config.text.max_position_embeddings)
    _merges_as_words(directory / "tokenizer.json")
    path = directory / "tokenizer_config.json"
    names = json.loads(path.read_text(encoding="utf-8"))
    # That code takes LlamaTokenizerFast whatever stands here, and would add an <unk> of its own.
    # AutoTokenizer of transformers 5 would make a Llama's tokenizer of one by that name; and with
    # `add_prefix_space` releases of transformers 4 would make it anew from tokenizer.model.
    del names["add_prefix_space"]
    names |= {"unk_token": None, "add_bos_token": True, "add_eos_token": False}
    write_object(path, names)
    roles = {key: token_of(ours, role) for role, key in HF_KEYS.items()}
    named = {key: roles[key] for key in ("bos_token", "eos_token", "pad_token")}
    others = [t for t in ours.tokens if t not in named.values()]
    write_object(
        directory / "special_tokens_map.json", {**named, "additional_special_tokens": others}
    )
    write_object(
        directory / "preprocessor_config.json",
        {
            "image_processor_type": "VLMImageProcessor",
            "processor_class": "VLChatProcessor",
            "image_size": config.vision.image_size,
            "background_color": [127, 127, 127],
            **_pixels(),
        },
    )
    write_object(
        directory / "processor_config.json",
        {
            "processor_class": "VLChatProcessor",
            "num_image_tokens": config.vision.num_tokens,
            "add_special_token": False,
            "mask_prompt": True,
            "ignore_id": -100,
            "sft_format": sft_format(done.template),
            "image_tag": roles["image_token"],
            "image_start_tag": roles["boi_token"],
            "image_end_tag": roles["eoi_token"],
            "pad_tag": roles["pad_token"],
        },
    )
    return _told(export, "deepseek", ours, done)


def _told(
    export: Export, format: str, ours: tokenizer_lib.Tokenizer, done: Preparation
) -> dict[str, str]:
    """Rows of the model card; what is to be told is added to the notes."""
    tell_padding(ours.vocab_size, export.config.text.vocab_size, export.notes)
    theirs = ROUNDING[format]
    if theirs != done.und_rounding:
        export.notes.append(
            f"the short side of a picture was scaled by {done.und_rounding!r} here, and is by "
            f"{theirs!r} in the code that loads this format: at times a pixel more or less"
        )
    return {
        "conversations": done.template,
        "short side of pictures": done.und_rounding,
        "tokens of a row in training": f"{done.row_length:,}" if done.row_length else "unknown",
    }


def _merges_as_words(path: pathlib.Path) -> None:
    """Writes the merges of a BPE tokenizer as "a b", where no part has a space.

    That code asks for transformers 4.38.2, which reads this form alone; later ones read both.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    merges = content["model"].get("merges", [])
    if merges and not any(" " in part for pair in merges for part in pair):
        content["model"]["merges"] = [" ".join(pair) for pair in merges]
        write_object(path, content)


def _pixels() -> dict:
    """0..255 to -1..1."""
    return {
        "min_size": 14,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }

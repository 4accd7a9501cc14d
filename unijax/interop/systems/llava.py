"""LLaVA-OneVision and Qwen2.5-VL in transformers' directories, as their releases are."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import numpy as np

from unijax.core.batch import Kind
from unijax.core.json_files import write_object
from unijax.core.system import Params
from unijax.data import tokenizer as tokenizer_lib
from unijax.interop import plain
from unijax.interop.config_files import special_ids
from unijax.interop.config_parts import model_type, read_config
from unijax.interop.hf_tokenizer import write_hf_tokenizer
from unijax.interop.interface import Comparison, Export, Format, Import, Interop, Outputs
from unijax.interop.llava_parts import projector, qwen_vision
from unijax.interop.opening import ForeignModel
from unijax.interop.parts import Entries, llama, llama_size, llama_widths, siglip, tower_size
from unijax.interop.qwen_configs import (
    qwen2_json,
    qwen2_text,
    siglip_vision,
    text_section,
)
from unijax.interop.qwen_configs import qwen_vision as qwen_vision_config
from unijax.interop.rows import ROWS, addresses, rows, slots
from unijax.interop.sections import Section
from unijax.interop.source_tokenizer import tell_padding
from unijax.interop.sources import open_directory
from unijax.interop.table import Table
from unijax.ops.image import CLIP_MEAN, CLIP_STD
from unijax.systems.llava import Llava, LlavaConfig

# Square pictures of Qwen2.5-VL, as MetaQuery shows them; any multiple of 28 will do.
SIDE = 448
_WORDS = 6  # random text ids before and behind a picture
_ABOUT = (
    "A language model that reads pictures: LLaVA ([2304.08485](https://arxiv.org/abs/2304.08485)), "
    "LLaVA-OneVision ([2408.03326](https://arxiv.org/abs/2408.03326)), Qwen2.5-VL "
    "([2502.13923](https://arxiv.org/abs/2502.13923))."
)
_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}
_USE = """\
```python
from transformers import AutoModelForImageTextToText

model = AutoModelForImageTextToText.from_pretrained(FOLDER)
```"""


def _onevision_config(directory: pathlib.Path, notes: list[str], like: Any) -> LlavaConfig:
    del like
    path = directory / "config.json"
    top = Section(
        str(path), read_config(directory),
        {"vision_feature_layer": -1, "vision_feature_select_strategy": "full",
         "projector_hidden_act": "gelu", "multimodal_projector_bias": True,
         "tie_word_embeddings": True},
    )  # fmt: skip
    top.classes("LlavaOnevisionForConditionalGeneration", "LlavaOnevisionModel")
    top.require("vision_feature_layer", -1)
    top.require("vision_feature_select_strategy", "full")
    top.require("projector_hidden_act", "gelu")
    top.require("multimodal_projector_bias", True)
    text = text_section(f"{path}: text_config", top.get("text_config"))
    _is_tied(text)  # is refused where it is no answer; what the whole model says is what counts
    tied = _is_tied(top)
    vision = siglip_vision(top.get("vision_config"), f"{path}: vision_config", notes)
    top.plain(plain.ANYWHERE)
    own = ("image_grid_pinpoints", "image_token_index", "video_token_index", "vision_aspect_ratio",
           "video_token_id", "image_newline", "ignore_index", "image_seq_length")  # fmt: skip
    notes += top.unknown(own)
    return LlavaConfig(qwen2_text(text, tied, notes), vision, newline=True)


def _qwen_config(directory: pathlib.Path, notes: list[str], like: Any) -> LlavaConfig:
    path = directory / "config.json"
    values = read_config(directory)
    # Releases have the decoder's keys at the top, transformers 5 writes them in a group.
    own = values.get("text_config") or {k: v for k, v in values.items() if k != "vision_config"}
    group = text_section(f"{path}: text_config", own)
    top = Section(f"{path}", values, {"tie_word_embeddings": False})
    top.classes("Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLModel")
    top.plain(plain.ANYWHERE)
    text = qwen2_text(group, _is_tied(top, group), [], axes=True)
    size = SIDE if like is None else like.vision.image_size
    where = f"{path}: vision_config"
    vision = qwen_vision_config(values.get("vision_config"), where, notes, size)
    return LlavaConfig(text, vision)


def _is_tied(*places: Section) -> bool:
    """Whether the head is the table, by the first that says so; the last may have a default."""
    said = next((p for p in places if "tie_word_embeddings" in p), places[-1])
    if said.get("tie_word_embeddings") is None:
        return False
    said.require("tie_word_embeddings", True, False)
    return said.get("tie_word_embeddings")


def _names(config: LlavaConfig, directory: pathlib.Path) -> dict[str, str]:
    """What tensors of the decoder and of the tower begin with, and the head.

    The release has a name more before those of the tower than transformers 5 writes.
    """
    if config.merges:
        return {"decoder": "model", "tower": "visual.", "head": "lm_head.weight"}
    written = any(directory.glob("*.safetensors")) or any(directory.glob("*.bin"))
    found = open_directory(directory).tensors if written else ()
    longer = any(name.startswith("vision_tower.vision_model.") for name in found)
    return {
        "decoder": "language_model.model",
        "tower": "vision_tower.vision_model." if longer else "vision_tower.",
        "head": "language_model.lm_head.weight",
    }


def _table(config: LlavaConfig, directory: pathlib.Path) -> Table:
    names = _names(config, directory)
    entries: Entries = llama(config.text, "language_model", names["decoder"], names["head"])
    dropped = [r"(language_model\.)?lm_head\.weight"] if config.text.tie_word_embeddings else []
    if config.merges:
        entries += qwen_vision(config.vision, "vision_model", names["tower"])
    else:
        tower = names["tower"]
        entries += siglip(config.vision, "vision_model", tower, "out_proj")
        entries += projector(config.newline, "")
        dropped += [r"vision_tower\..*post_layernorm\..*", r"vision_tower\..*head\..*"]
    return Table(tuple(entries), dropped=tuple(dropped))


def _write(export: Export) -> dict[str, str]:
    c, directory = export.config, export.directory
    ours = tokenizer_lib.load(export.tokenizer)
    tell_padding(ours.vocab_size, c.text.vocab_size, export.notes)
    placeholder = ours.special.image_placeholder
    top: dict[str, Any] = {
        "torch_dtype": export.dtype,
        "tie_word_embeddings": c.text.tie_word_embeddings,
        **special_ids(ours.special),
    }
    v = c.vision
    if c.merges:
        top |= {
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            "model_type": "qwen2_5_vl",
            "image_token_id": placeholder,
            "vision_start_token_id": ours.special.vision_start,
            "vision_end_token_id": ours.special.vision_end,
            "text_config": qwen2_json(c.text, export.dtype, model_type="qwen2_5_vl_text"),
            "vision_config": {
                "model_type": "qwen2_5_vl",
                "depth": v.depth,
                "hidden_size": v.hidden_size,
                "hidden_act": "silu",
                "intermediate_size": v.intermediate_size,
                "num_heads": v.num_heads,
                "in_channels": 3,
                "patch_size": v.patch_size,
                "spatial_merge_size": v.spatial_merge_size,
                "temporal_patch_size": 2,
                "window_size": v.window_size,
                "out_hidden_size": v.out_hidden_size,
                "fullatt_block_indexes": list(v.fullatt_block_indexes),
            },
        }
    else:
        top |= {
            "architectures": ["LlavaOnevisionForConditionalGeneration"],
            "model_type": "llava_onevision",
            "image_token_index": placeholder,
            "image_grid_pinpoints": [[v.image_size, v.image_size]],
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
            "projector_hidden_act": "gelu",
            "multimodal_projector_bias": True,
            "text_config": qwen2_json(c.text, export.dtype, model_type="qwen2"),
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": v.hidden_size,
                "intermediate_size": v.intermediate_size,
                "num_hidden_layers": v.num_hidden_layers,
                "num_attention_heads": v.num_attention_heads,
                "num_channels": 3,
                "image_size": v.image_size,
                "patch_size": v.patch_size,
                "hidden_act": _ACTIVATIONS[v.hidden_act],
                "layer_norm_eps": v.layer_norm_eps,
                "vision_use_head": False,
            },
        }
    write_object(directory / "config.json", top)
    write_hf_tokenizer(export.tokenizer, directory, c.text.max_position_embeddings)
    return {}


def _record(source: Import) -> dict:
    usual = "qwen2.5_vl" if source.config.merges else "llava_onevision"
    return {"template": source.template or usual}


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Inputs of a comparison: int ids [B, n] around a picture, and its pixels in -1..1."""

    before: np.ndarray
    after: np.ndarray
    pixels: np.ndarray


def _prompts(config: LlavaConfig, directory: pathlib.Path, rng: np.random.Generator) -> Prompts:
    values = read_config(directory)
    special = {v for k, v in values.items() if k.endswith(("token_id", "token_index"))}
    ordinary = np.array([i for i in range(config.text.vocab_size) if i not in special])
    words = lambda: rng.choice(ordinary, (ROWS, _WORDS))  # noqa: E731
    side = config.vision.image_size
    pixels = rng.uniform(-1, 1, (ROWS, side, side, 3)).astype(np.float32)
    return Prompts(words(), words(), pixels)


def _ours(config: LlavaConfig, params: Params, given: Prompts, theirs: Outputs) -> Outputs:
    del theirs
    texts = rows([(Kind.TEXT, given.before), (Kind.TEXT, given.after)])
    seen = rows(
        [
            (Kind.TEXT, given.before),
            (Kind.UND, addresses(config.picture_tokens)),
            (Kind.TEXT, given.after),
        ]
    )
    return jax.device_get(_forward(config, params, texts, seen, given.pixels))


@functools.partial(jax.jit, static_argnums=0)
def _forward(config: LlavaConfig, params, texts, seen, pixels) -> dict[str, jax.Array]:
    system = Llava(config)
    features = system.encode_und(params, pixels)
    seen = seen.replace(images={"und": slots(features=features[:, None])})

    def logits(batch):
        hidden = system.states(params, system.embed(params, batch), batch)
        return system.text_logits(params, hidden)

    return {"text": logits(texts), "picture": logits(seen)}


def _theirs(model: ForeignModel, given: Prompts) -> Outputs:
    """Logits of rows of text, and of rows with a picture."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    c, values = model.config, read_config(model.directory)
    name = "Qwen2_5_VL" if c.merges else "LlavaOnevision"
    network = (
        getattr(transformers, f"{name}ForConditionalGeneration")
        .from_pretrained(
            model.directory, dtype=torch.float32, attn_implementation="eager", local_files_only=True
        )
        .eval()
    )
    image = values["image_token_id" if c.merges else "image_token_index"]
    picture = np.full((ROWS, c.picture_tokens), image)
    texts = torch.from_numpy(np.concatenate([given.before, given.after], axis=1))
    seen = torch.from_numpy(np.concatenate([given.before, picture, given.after], axis=1))
    v, shown = c.vision, {}
    if c.merges:
        size, merge, side = v.patch_size, v.spatial_merge_size, v.image_size // v.patch_size
        x = ((given.pixels + 1) / 2 - np.float32(CLIP_MEAN)) / np.float32(CLIP_STD)
        x = x.reshape(ROWS, side // merge, merge, size, side // merge, merge, size, 3)
        x = x.transpose(0, 1, 4, 2, 5, 7, 3, 6).reshape(ROWS * side * side, 3, 1, size, size)
        patches = np.repeat(x, 2, axis=2).reshape(len(x), -1).astype(np.float32)
        shown = {
            "pixel_values": torch.from_numpy(patches),
            "image_grid_thw": torch.tensor([[1, side, side]] * ROWS),
            "mm_token_type_ids": (seen == image).int(),
        }
    else:
        x = torch.from_numpy(np.moveaxis(given.pixels, -1, 1).copy())
        shown = {
            "pixel_values": x[:, None].expand(-1, 2, -1, -1, -1),  # whole, and as its one part
            "image_sizes": torch.tensor([[v.image_size, v.image_size]] * ROWS),
        }
    with torch.no_grad():
        out = {
            "text": network(input_ids=texts).logits,
            "picture": network(input_ids=seen, **shown).logits,
        }
    return {name: value.numpy() for name, value in out.items()}


def _format(name: str, kind: str, merges: bool, read: Any, loads: str) -> Format:
    def fits(config: LlavaConfig) -> bool:
        v = config.vision
        plain_tower = merges or (v.kind == "siglip" and v.features == "pre_norm" and config.newline)
        return config.merges == merges and plain_tower and config.text.qkv_bias

    return Format(
        name, f"model_type {kind!r}",
        matches=lambda directory: model_type(directory) == kind,
        read_config=read, table=_table, write=_write, record=_record, tied=None, loads=loads,
        use=_USE, package="transformers", fits=fits,
    )  # fmt: skip


INTEROP = Interop(
    "llava",
    (
        _format("onevision", "llava_onevision", False, _onevision_config,
                "LlavaOnevisionForConditionalGeneration"),
        _format("qwen", "qwen2_5_vl", True, _qwen_config, "Qwen2_5_VLForConditionalGeneration"),
    ),
    Comparison(_prompts, _theirs, _ours, logits=("text", "picture")),
    _ABOUT,
    lambda config: llama_size(config.text) | tower_size(config.vision),
    stacks=lambda config: {
        "language_model/": config.text.num_hidden_layers,
        "vision_model/": config.vision.num_hidden_layers,
    },
    widths=lambda config: llama_widths(config.text),
    task="image-text-to-text",
    unsaid=("dropout", "min_pixels", "max_pixels"),
)  # fmt: skip

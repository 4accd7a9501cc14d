"""LLaVA-NeXT, LLaVA-OneVision and Qwen2.5-VL in transformers' directories, as released."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unijax.core.batch import Kind
from unijax.core.errors import UserError
from unijax.core.json_files import write_object
from unijax.core.system import Params
from unijax.core.vocab import SpecialIds
from unijax.data import tokenizer as tokenizer_lib
from unijax.data.templates import check_marks
from unijax.interop import clip_parts, given, llava_next_configs, plain
from unijax.interop.config_files import llama_json, siglip_json, special_ids, tower_json
from unijax.interop.config_parts import llama_config, model_type, read_config
from unijax.interop.hf_tokenizer import token_of, write_hf_tokenizer
from unijax.interop.interface import Comparison, Export, Format, Import, Interop, Outputs
from unijax.interop.llava_parts import projector, qwen_vision
from unijax.interop.opening import ForeignModel, check_same, existing_directory
from unijax.interop.parts import Entries, llama, llama_size, llama_widths, siglip, tower_size
from unijax.interop.qwen_configs import (
    qwen2_json,
    qwen2_text,
    siglip_vision,
    text_section,
)
from unijax.interop.qwen_configs import qwen_vision as qwen_vision_config
from unijax.interop.rows import ROWS, addresses, rows, slots
from unijax.interop.safetensors_writer import SafetensorsWriter
from unijax.interop.sections import Section
from unijax.interop.source_tokenizer import tell_padding
from unijax.interop.sources import open_directory
from unijax.interop.table import Table, TensorInfo
from unijax.ops.image import by_clip_statistics, to_signed
from unijax.ops.tiles import shrink
from unijax.systems.llava import Llava, LlavaConfig
from unijax.systems.reading import ReadingConfig

# Square pictures of Qwen2.5-VL, as MetaQuery shows them; any multiple of 28 will do.
SIDE = 448
_WORDS = 6  # random text ids before and behind a picture
_ABOUT = (
    "A language model that reads pictures: LLaVA ([2304.08485](https://arxiv.org/abs/2304.08485)), "
    "[LLaVA-NeXT](https://llava-vl.github.io/blog/2024-01-30-llava-next/), "
    "LLaVA-OneVision ([2408.03326](https://arxiv.org/abs/2408.03326)), Qwen2.5-VL "
    "([2502.13923](https://arxiv.org/abs/2502.13923))."
)
_USE = """\
```python
from transformers import AutoModelForImageTextToText

model = AutoModelForImageTextToText.from_pretrained(FOLDER)
```"""


def _is_next(config: ReadingConfig) -> bool:
    return config.vision.kind == "clip"


def _next_config(directory: pathlib.Path, notes: list[str], like: Any) -> LlavaConfig:
    path = directory / "config.json"
    top = Section(
        str(path), read_config(directory),
        {"vision_feature_layer": -2, "vision_feature_select_strategy": "default",
         "projector_hidden_act": "gelu", "multimodal_projector_bias": True,
         "use_image_newline_parameter": True, "tie_word_embeddings": False,
         "image_grid_pinpoints": llava_next_configs.PINPOINTS},
    )  # fmt: skip
    top.classes("LlavaNextForConditionalGeneration", "LlavaNextModel")
    top.require("vision_feature_select_strategy", "default")
    top.require("projector_hidden_act", "gelu")
    top.require("multimodal_projector_bias", True)
    top.require("use_image_newline_parameter", True)
    for place in (top, top.group("text_config", {"tie_word_embeddings": False})):
        place.require("tie_word_embeddings", False)
    text = llama_config(top.get("text_config"), f"{path}: text_config", notes)
    vision = llava_next_configs.clip_vision(top, notes)
    tiles = llava_next_configs.tiles(top, vision.image_size, None if like is None else like.tiles)
    top.plain(plain.ANYWHERE)
    notes += top.unknown(("image_token_index", "ignore_index", "image_seq_length", "vocab_size"))
    return LlavaConfig(text, vision, newline=True, begins=True, tiles=tiles)


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


def _names(config: ReadingConfig, directory: pathlib.Path) -> dict[str, str]:
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


def _table(config: ReadingConfig, directory: pathlib.Path) -> Table:
    names = _names(config, directory)
    entries: Entries = llama(config.text, "language_model", names["decoder"], names["head"])
    dropped = [r"(language_model\.)?lm_head\.weight"] if config.text.tie_word_embeddings else []
    if config.merges:
        entries += qwen_vision(config.vision, "vision_model", names["tower"])
    elif _is_next(config):
        tower = names["tower"]
        entries += clip_parts.hf_vision(config.vision, tower)
        entries += projector(config.newline, "")
        dropped += [*clip_parts.DROPPED, r"vision_tower\..*post_layernorm\..*"]
        if read_config(directory).get("vision_feature_layer") != llava_next_configs.LAST:
            # The features are those before it.
            unread = config.vision.num_hidden_layers
            dropped.append(rf"vision_tower\..*encoder\.layers\.{unread}\..*")
    else:
        tower = names["tower"]
        entries += siglip(config.vision, "vision_model", tower, "out_proj")
        entries += projector(config.newline, "")
        dropped += [r"vision_tower\..*post_layernorm\..*", r"vision_tower\..*head\..*"]
    return Table(tuple(entries), dropped=tuple(dropped))


def _write(export: Export, content: Any) -> dict[str, str]:
    """`content`: of a config, the dtype and special ids, what a form has in config.json."""
    c, directory = export.config, export.directory
    ours = tokenizer_lib.load(export.tokenizer)
    tell_padding(ours.vocab_size, c.text.vocab_size, export.notes)
    if _is_next(c):
        token_of(ours, "image_placeholder")  # without one that class has nowhere for pictures
    top: dict[str, Any] = {
        "torch_dtype": export.dtype,
        "tie_word_embeddings": c.text.tie_word_embeddings,
        **special_ids(ours.special),
        **content(c, export.dtype, ours.special),
    }
    write_object(directory / "config.json", top)
    write_hf_tokenizer(export.tokenizer, directory, c.text.max_position_embeddings)
    return {}


def _next_json(c: ReadingConfig, dtype: str, special: SpecialIds) -> dict[str, Any]:
    return {
        "architectures": ["LlavaNextForConditionalGeneration"],
        "model_type": "llava_next",
        "image_token_index": special.image_placeholder,
        "image_grid_pinpoints": llava_next_configs.pinpoints(c.vision.image_size, c.tiles),
        "image_seq_length": c.vision.num_tokens,
        "vision_feature_layer": llava_next_configs.LAST,
        "vision_feature_select_strategy": "default",
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "text_config": llama_json(c.text, dtype),
        "vision_config": {"model_type": "clip_vision_model", **tower_json(c.vision)},
    }


def _qwen_json(c: ReadingConfig, dtype: str, special: SpecialIds) -> dict[str, Any]:
    v = c.vision
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "image_token_id": special.image_placeholder,
        "vision_start_token_id": special.vision_start,
        "vision_end_token_id": special.vision_end,
        "text_config": qwen2_json(c.text, dtype, model_type="qwen2_5_vl_text"),
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


def _onevision_json(c: ReadingConfig, dtype: str, special: SpecialIds) -> dict[str, Any]:
    v = c.vision
    return {
        "architectures": ["LlavaOnevisionForConditionalGeneration"],
        "model_type": "llava_onevision",
        "image_token_index": special.image_placeholder,
        "image_grid_pinpoints": [[v.image_size, v.image_size]],
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "text_config": qwen2_json(c.text, dtype, model_type="qwen2"),
        "vision_config": siglip_json(v),
    }


def _next_writer(
    directory: pathlib.Path, tensors: dict[str, TensorInfo], most: int
) -> SafetensorsWriter:
    """Also the tower's last norm, as it begins: nothing reads it, but that class has one."""
    first, last = "pre_layrnorm", "post_layernorm"
    norm = {name.replace(first, last): info for name, info in tensors.items() if first in name}
    writer = SafetensorsWriter(directory, tensors | norm, most)
    for name, info in norm.items():
        writer.write(name, np.full(info.shape, float(name.endswith("weight"))))
    return writer


def _record(source: Import) -> dict:
    if _is_next(source.config):
        if source.template is None:
            check_marks("llama3", source.tokenizer.tokens, f"{source.directory}: tokenizer")
        return {"template": source.template or "llama3"}
    usual = "qwen2.5_vl" if source.config.merges else "llava_onevision"
    return {"template": source.template or usual}


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Inputs of a comparison: int ids [B, n] around a picture, and its pixels in -1..1."""

    before: np.ndarray
    after: np.ndarray
    pixels: np.ndarray


def _prompts(config: ReadingConfig, directory: pathlib.Path, rng: np.random.Generator) -> Prompts:
    values = read_config(directory)
    special = {v for k, v in values.items() if k.endswith(("token_id", "token_index"))}
    ordinary = np.array([i for i in range(config.text.vocab_size) if i not in special])
    words = lambda: rng.choice(ordinary, (ROWS, _WORDS))  # noqa: E731
    side = config.image_size
    pixels = rng.integers(0, 256, (ROWS, side, side, 3), dtype=np.uint8)
    return Prompts(words(), words(), np.asarray(to_signed(jnp.asarray(pixels))))


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
    name = "Qwen2_5_VL" if c.merges else "LlavaNext" if _is_next(c) else "LlavaOnevision"
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
        x = np.asarray(by_clip_statistics(jnp.asarray(given.pixels)))
        x = x.reshape(ROWS, side // merge, merge, size, side // merge, merge, size, 3)
        x = x.transpose(0, 1, 4, 2, 5, 7, 3, 6).reshape(ROWS * side * side, 3, 1, size, size)
        patches = np.repeat(x, 2, axis=2).reshape(len(x), -1).astype(np.float32)
        shown = {
            "pixel_values": torch.from_numpy(patches),
            "image_grid_thw": torch.tensor([[1, side, side]] * ROWS),
            "mm_token_type_ids": (seen == image).int(),
        }
    elif _is_next(c):
        shown = {
            "pixel_values": torch.from_numpy(_in_parts(c, given.pixels)),
            "image_sizes": torch.tensor([[c.image_size, c.image_size]] * ROWS),
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


def _in_parts(config: ReadingConfig, pixels: np.ndarray) -> np.ndarray:
    """What transformers' processor makes of square pictures: the whole, then the parts.

    The whole is ours: of a picture that it makes smaller, another library may be a level off.
    """
    from transformers.image_transforms import divide_to_patches

    size = config.vision.image_size
    whole = shrink(jnp.asarray(pixels), size) if config.tiles > 1 else pixels
    whole, pictures = (
        np.moveaxis(np.asarray(by_clip_statistics(jnp.asarray(x))), -1, 1) for x in (whole, pixels)
    )
    return np.stack([whole, *divide_to_patches(pictures, size)], axis=1)


def _format(name: str, kind: str, fits: Any, read: Any, content: Any, **more: Any) -> Format:
    return Format(
        name, f"model_type {kind!r}",
        matches=lambda directory: model_type(directory) == kind,
        read_config=read, table=_table, write=functools.partial(_write, content=content),
        record=_record, tied=None, use=_USE, package="transformers", fits=fits, **more,
    )  # fmt: skip


def _fits_next(config: ReadingConfig) -> bool:
    v = config.vision
    plain_tower = v.kind == "clip" and v.features == "pre_norm"
    return plain_tower and config.newline and config.begins and not config.text.qkv_bias


def _fits_onevision(config: ReadingConfig) -> bool:
    v = config.vision
    plain_tower = v.kind == "siglip" and v.features == "pre_norm"
    return plain_tower and config.newline and config.tiles == 1 and config.text.qkv_bias


def _fits_qwen(config: ReadingConfig) -> bool:
    return config.merges and config.text.qkv_bias


def _sizes(config: LlavaConfig) -> dict[str, str]:
    found = llama_size(config.text) | tower_size(config.vision)
    if config.tiles == 1:
        return found
    parts = f"whole and in {config.tiles} x {config.tiles} parts"
    shown = f"{config.image_size} px, {parts}: {config.picture_tokens:,} tokens"
    return found | {"pictures": shown}


INTEROP = Interop(
    "llava",
    (
        _format("onevision", "llava_onevision", _fits_onevision, _onevision_config,
                _onevision_json, loads="LlavaOnevisionForConditionalGeneration"),
        _format("qwen", "qwen2_5_vl", _fits_qwen, _qwen_config, _qwen_json,
                loads="Qwen2_5_VLForConditionalGeneration"),
        _format("next", "llava_next", _fits_next, _next_config, _next_json,
                loads="LlavaNextForConditionalGeneration", writer=_next_writer),
    ),
    Comparison(_prompts, _theirs, _ours, logits=("text", "picture")),
    _ABOUT,
    _sizes,
    stacks=lambda config: {
        "language_model/": config.text.num_hidden_layers,
        "vision_model/": config.vision.num_hidden_layers,
    },
    widths=lambda config: llama_widths(config.text),
    task="image-text-to-text",
    unsaid=("dropout", "min_pixels", "max_pixels"),
)  # fmt: skip


def part(place: pathlib.Path, config: ReadingConfig, notes: list[str]) -> given.Opened:
    """Of a system whose frozen model this is: all of it, in any format."""
    path = existing_directory(place)
    form = next((f for f in INTEROP.formats if f.matches(path)), None)
    if form is None:
        raise UserError(
            str(path), "another model", " or ".join(f.kind for f in INTEROP.formats),
            "Use the part that belongs to it.",
        )  # fmt: skip
    found = form.read_config(path, notes, config)
    check_same(f"{path}: decoder", found.text, config.text, ("dropout", "max_position_embeddings"))
    if type(found.vision) is not type(config.vision):
        raise UserError(
            str(path), f"a tower of the kind {found.vision.kind!r}", f"{config.vision.kind!r}",
            "Use the part that belongs to it.",
        )  # fmt: skip
    check_same(f"{path}: tower", found.vision, config.vision, ("min_pixels", "max_pixels"))
    return form.table(found, path), form.weights(path)

"""MetaMorph as facebookresearch/metamorph has it, its tower and visualiser in folders beside it.

The names are LLaVA's: transformers' Llama, `model.mm_projector`, `vision_head`. What the release
loads from elsewhere may stand beside: `vision_tower` (a SiglipVisionModel), `projector`, `unet` and
`vae` (the visualiser). config.json holds the sizes as a checkpoint records them; one without them
is the released model.
"""

import dataclasses
import functools
import pathlib
from typing import Any

from unijax.core.errors import UserError
from unijax.core.json_files import quoted, write_object
from unijax.core.record import build, to_json
from unijax.data import tokenizer as tokenizer_lib
from unijax.interop import given, visualiser_part
from unijax.interop.config_parts import model_type, read_config
from unijax.interop.folders import Folder, FoldersWriter, open_folders
from unijax.interop.hf_tokenizer import write_hf_tokenizer
from unijax.interop.interface import Comparison, Export, Format, Interop, Part
from unijax.interop.live_llama import llama_keys
from unijax.interop.opening import abstract_params
from unijax.interop.parts import (
    llama,
    llama_size,
    llama_widths,
    tower_size,
    tower_widths,
)
from unijax.interop.plain_sizes import check_limits
from unijax.interop.source_tokenizer import tell_padding
from unijax.interop.systems.metamorph import compare
from unijax.interop.table import Entry, Table, linear
from unijax.systems.metamorph import SIZES, MetaMorphConfig

_KIND = "metamorph_llama"
FOLDERS = (Folder("", "."), *visualiser_part.FOLDERS)
_ABOUT = (
    "MetaMorph: a language model that reads pictures and writes them as features of a vision "
    "tower, which a diffusion model paints ([2412.14164](https://arxiv.org/abs/2412.14164))."
)
_USE = f"""\
```python
{visualiser_part.USE}\
# The decoder: metamorph.model.MetaMorphLlamaForCausalLM, github.com/facebookresearch/metamorph
```"""


def _read_config(directory: pathlib.Path, notes: list[str], like: Any) -> MetaMorphConfig:
    del like
    path, content = directory / "config.json", read_config(directory)
    if "model" in content:
        check_limits(content["model"], f"{path}: model")
        return build(MetaMorphConfig, content["model"], f"{path}: model")
    released = SIZES["metamorph_8b"]
    for key, value in llama_keys(released.text).items():
        same = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
        if key in same and content.get(key) != value:
            raise UserError(
                f"{path}.{key}", quoted(content.get(key)), f"{value}, as the released model has",
                "Give that one, or a directory that `unijax export` wrote.",
            )  # fmt: skip
    if not (directory / "unet").is_dir():
        notes.append(f"no visualiser in {directory}: this model paints nothing")
        return dataclasses.replace(released, visualiser=None)
    return released


def _table(config: MetaMorphConfig, directory: pathlib.Path) -> Table:
    shapes = {p: a.shape for p, a in abstract_params("metamorph", config).items()}
    entries: list[Entry] = [
        *llama(config.text, "language_model", "model", "lm_head.weight"),
        *linear("aligner/fc1", "model.mm_projector.0"),
        *linear("aligner/hidden_layers_0", "model.mm_projector.2"),
        *linear("vision_head/fc1", "vision_head.0"),
        *linear("vision_head/fc2", "vision_head.2"),
    ]
    if (directory / "vision_tower").is_dir():
        entries += visualiser_part.tower_entries(config.vision)
    if config.visualiser is not None:
        entries += visualiser_part.entries(shapes)
    return Table(
        tuple(entries),
        dropped=(
            r"model\.vision_proj\..*",
            r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
            r"model\.vision_tower\..*",
            *visualiser_part.dropped(config.vision),
        ),
    )


def _write(export: Export) -> dict[str, str]:
    c, directory = export.config, export.directory
    ours = tokenizer_lib.load(export.tokenizer)
    tell_padding(ours.vocab_size, c.text.vocab_size, export.notes)
    content = {
        "model_type": _KIND,
        "torch_dtype": export.dtype,
        "bos_token_id": ours.special.bos,
        "eos_token_id": ours.special.eos,
        "mm_projector_type": "mlp2x_gelu",
        "vision_head_type": "mlp",
        "normalize_vision": True,
        "num_image_tokens": c.num_tokens,
        "image_token_reduction": "interpolation",
        "mm_hidden_size": c.vision.hidden_size,
        "mm_vision_select_layer": -1,
        "model": to_json(c, whole=True),
    }
    write_object(directory / "config.json", llama_keys(c.text) | content)
    visualiser_part.write(directory, c.vision, c.visualiser)
    write_hf_tokenizer(export.tokenizer, directory, c.text.max_position_embeddings)
    return {}


def _llama(place: pathlib.Path, config: MetaMorphConfig, notes: list[str]) -> given.Opened:
    return given.llama(place, config.text, notes)


def _sizes(config: MetaMorphConfig) -> dict[str, str]:
    features = {"pictures": f"{config.num_tokens} features each"}
    return llama_size(config.text) | tower_size(config.vision) | features


INTEROP = Interop(
    "metamorph",
    (
        Format(
            "metamorph",
            f"model_type {_KIND!r}",
            matches=lambda directory: model_type(directory) == _KIND,
            read_config=_read_config,
            table=_table,
            write=_write,
            loads="MetaMorphLlamaForCausalLM",
            use=_USE,
            weights=lambda directory: open_folders(directory, FOLDERS),
            writer=functools.partial(FoldersWriter, FOLDERS),
            may_lack=("vision_model", *visualiser_part.GROUPS),
        ),
    ),
    Comparison(compare.prompts, compare.theirs, compare.ours, logits=("text",)),
    _ABOUT,
    _sizes,
    parts=(
        Part("llama", given.LLAMA, _llama, has_tokenizer=True),
        *visualiser_part.parts(lambda config: config.visualiser),
    ),
    stacks=lambda config: {
        "language_model/": config.text.num_hidden_layers,
        "vision_model/": config.vision.num_hidden_layers,
    },
    widths=lambda config: llama_widths(config.text) | tower_widths(config.vision),
    unsaid=("dropout",),
)

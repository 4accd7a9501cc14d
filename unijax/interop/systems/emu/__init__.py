"""Emu as baaivision/Emu has it: `multimodal_encoder`, and folders of diffusers beside it.

Names are those of the release: `visual` (EVA-CLIP's authors'), `ln_visual`, `cformer`,
`decoder.lm` (transformers' Llama and the regression head). config.json holds the sizes as a
checkpoint records them; a directory without one is the released pretrained model.
"""

import functools
import pathlib
from typing import Any

from unijax.core.errors import UserError
from unijax.core.json_files import read_object, write_object
from unijax.core.record import build, to_json
from unijax.data import tokenizer as tokenizer_lib
from unijax.interop import cformer_part, given, painter_part, timm_tower
from unijax.interop.config_parts import model_type
from unijax.interop.eva_parts import Layout, eva_entries
from unijax.interop.folders import Folder, FoldersWriter, open_folders
from unijax.interop.hf_tokenizer import write_hf_tokenizer
from unijax.interop.interface import Comparison, Export, Format, Interop, Part
from unijax.interop.opening import abstract_params
from unijax.interop.parts import (
    llama,
    llama_size,
    llama_widths,
    siglip,
    tower_size,
    tower_widths,
)
from unijax.interop.plain_sizes import check_limits
from unijax.interop.source_tokenizer import tell_padding
from unijax.interop.systems.emu import compare
from unijax.interop.table import LINEAR, Entry, Table, norm
from unijax.models.eva import EvaConfig
from unijax.systems.emu import SIZES, EmuConfig

_ENCODER = "multimodal_encoder"
FOLDERS = (Folder("", _ENCODER), *painter_part.FOLDERS)
_ABOUT = (
    "Emu: a language model that reads and writes pictures as vectors, which a diffusion model "
    "paints ([2307.05222](https://arxiv.org/abs/2307.05222))."
)
_USE = """\
```python
from models.pipeline import EmuGenerationPipeline  # github.com/baaivision/Emu, Emu1

pipeline = EmuGenerationPipeline.from_pretrained(FOLDER)
```"""
_DROPPED = (
    r"visual\.(norm|fc_norm|head)\..*",
    r"visual\.(blocks\.\d+\.attn\.)?rope\.freqs_(cos|sin)",
    r"decoder\.lm\.model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
    r"cformer\.cformer\.embed_tokens\.weight",
)


def _matches(directory: pathlib.Path) -> bool:
    if (directory / "config.json").exists():
        return model_type(directory) == "emu"
    return (directory / _ENCODER / "pytorch_model.bin").is_file()


def _read_config(directory: pathlib.Path, notes: list[str], like: Any) -> EmuConfig:
    del like
    path = directory / "config.json"
    if path.exists():
        values = read_object(path).get("model")
        check_limits(values, f"{path}: model")
        return build(EmuConfig, values, f"{path}: model")
    notes.append(f"no config.json in {directory}: taken for the released Emu of 14B")
    return SIZES["emu_14b_painter" if (directory / "unet").is_dir() else "emu_14b"]


def _table(config: EmuConfig, directory: pathlib.Path) -> Table:
    del directory
    shapes = {p: a.shape for p, a in abstract_params("emu", config).items()}
    if isinstance(config.vision, EvaConfig):
        tower = eva_entries(config.vision, Layout("visual.", "authors", separate=False))
    else:
        tower = siglip(config.vision, "vision_model", "visual.", "out_proj")
    head = Entry(("stu_regress_head/kernel",), "decoder.lm.stu_regress_head.weight", LINEAR)
    entries: list[Entry] = [
        *tower,
        *norm("ln_visual", "ln_visual"),
        *cformer_part.entries("cformer/", "cformer."),
        *llama(config.text, "language_model", "decoder.lm.model", "decoder.lm.lm_head.weight"),
        head,
    ]
    if config.painter is not None:
        entries += painter_part.entries(shapes)
    return Table(tuple(entries), dropped=_DROPPED)


def _write(export: Export) -> dict[str, str]:
    c, directory = export.config, export.directory
    ours = tokenizer_lib.load(export.tokenizer)
    tell_padding(ours.vocab_size, c.text.vocab_size, export.notes)
    content = {"model_type": "emu", "torch_dtype": export.dtype, "model": to_json(c, whole=True)}
    write_object(directory / "config.json", content)
    if c.painter is not None:
        painter_part.write(directory, c.painter)
    write_hf_tokenizer(export.tokenizer, directory, c.text.max_position_embeddings)
    return {}


def _llama(place: pathlib.Path, config: EmuConfig, notes: list[str]) -> given.Opened:
    return given.llama(place, config.text, notes)


def _eva(place: pathlib.Path, config: EmuConfig, notes: list[str]) -> given.Opened:
    return timm_tower.given(place, config.vision, notes)


def _painter(config: EmuConfig):
    if config.painter is None:
        raise UserError(
            "--part", "a network of a painter", "a config with model.painter",
            "Give another config, or leave the part out.",
        )  # fmt: skip
    return config.painter


def _sizes(config: EmuConfig) -> dict[str, str]:
    vectors = {"pictures": f"{config.num_tokens} vectors each"}
    return llama_size(config.text) | tower_size(config.vision) | vectors


INTEROP = Interop(
    "emu",
    (
        Format(
            "emu",
            f"model_type 'emu', or {_ENCODER}/pytorch_model.bin",
            matches=_matches,
            read_config=_read_config,
            table=_table,
            write=_write,
            loads="EmuGenerationPipeline",
            use=_USE,
            weights=lambda directory: open_folders(directory, FOLDERS),
            writer=functools.partial(FoldersWriter, FOLDERS),
            tied=None,
        ),
    ),
    Comparison(compare.prompts, compare.theirs, compare.ours, logits=("text",)),
    _ABOUT,
    _sizes,
    parts=(
        Part("llama", given.LLAMA, _llama, has_tokenizer=True),
        Part("eva", timm_tower.EVA, _eva),
        *painter_part.parts(_painter),
    ),
    stacks=lambda config: {
        "language_model/": config.text.num_hidden_layers,
        "vision_model/": config.vision.num_hidden_layers,
        "cformer/": config.cformer.num_hidden_layers,
    },
    widths=lambda config: llama_widths(config.text) | tower_widths(config.vision),
    unsaid=("dropout",),
)

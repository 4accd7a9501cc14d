"""MetaQuery in the layout of facebookresearch/metaquery, and the parts it may start from.

The names are those of `models/metaquery.py` there: the frozen model of transformers under
`model.mllm_backbone`, whose table has the marks and the queries as its last rows, the connector
under `model.connector`, the generator and the autoencoder with diffusers' names under
`model.transformer` and `vae`. A release says sizes by the names of the parts' releases; an export
says them itself, too.
"""

import dataclasses
import pathlib
from typing import Any

from unijax.core.errors import UserError
from unijax.core.json_files import quoted, write_object
from unijax.core.record import build, to_json
from unijax.data import tokenizer as tokenizer_lib
from unijax.interop import diffusers_parts, given
from unijax.interop.config_files import special_ids
from unijax.interop.config_parts import model_type, read_config
from unijax.interop.diffusers_configs import class_of
from unijax.interop.hf_tokenizer import write_hf_tokenizer
from unijax.interop.interface import Comparison, Export, Format, Import, Interop, Part
from unijax.interop.metaquery_parts import connector
from unijax.interop.opening import check_same
from unijax.interop.parts import llama_size, llama_widths, tower_size
from unijax.interop.plain_sizes import check_limits
from unijax.interop.sections import LAYERS, ROWS, Section
from unijax.interop.source_tokenizer import tell_padding
from unijax.interop.systems import llava
from unijax.interop.systems.metaquery import compare
from unijax.interop.systems.metaquery.tables import backbone
from unijax.interop.table import Entry, Table
from unijax.systems.metaquery import BASES, SIZES, MetaQueryConfig

# What a release calls its parts, by the end of the name.
_MLLM = {
    "llava-onevision-qwen2-0.5b-ov-hf": BASES["b"],
    "Qwen2.5-VL-3B-Instruct": BASES["l"],
    "Qwen2.5-VL-7B-Instruct": BASES["xl"],
}
_GENERATORS = {"Sana_1600M_512px_diffusers": "sana", "stable-diffusion-v1-5": "sd"}
_OWN = "sizes"  # the key under which an export says its own
_ABOUT = (
    "MetaQuery: learned queries between a frozen multimodal model and a diffusion model "
    "([2504.06256](https://arxiv.org/abs/2504.06256))."
)
_USE = """\
The tensors are those of `MetaQuery` in [facebookresearch/metaquery](
https://github.com/facebookresearch/metaquery), `models/metaquery.py`. The parts that others made
(`model.mllm_backbone`, `model.transformer`, `vae`) are those of transformers and diffusers."""


def _read_config(directory: pathlib.Path, notes: list[str], like: Any) -> MetaQueryConfig:
    del notes, like
    where = f"{directory / 'config.json'}"
    values = read_config(directory)
    if (own := values.get(_OWN)) is not None:
        check_limits(own, f"{where}: {_OWN}")
        return build(MetaQueryConfig, own, f"{where}: {_OWN}")
    base = _of_release(values.get("mllm_id"), _MLLM, f"{where}: mllm_id")
    generator = _of_release(
        values.get("diffusion_model_id"), _GENERATORS, f"{where}: diffusion_model_id"
    )
    size = next(size for size, name in BASES.items() if name == base)
    config = SIZES[f"metaquery_{size}_{generator}"]
    top = Section(where, values, {"connector_num_hidden_layers": 24})
    queries = top.whole("num_metaqueries", ROWS)
    layers = top.whole("connector_num_hidden_layers", LAYERS)
    part = dataclasses.replace(config.connector, num_hidden_layers=layers)
    return dataclasses.replace(config, queries=queries, connector=part)


def _of_release(name: object, known: dict[str, str], where: str) -> str:
    found = name.rstrip("/").rpartition("/")[2] if isinstance(name, str) else None
    if found not in known:
        raise UserError(
            where, quoted(name), f"one that ends in one of {list(known)}",
            "This model has no other parts.",
        )  # fmt: skip
    return known[found]


def _table(config: MetaQueryConfig, directory: pathlib.Path) -> Table:
    del directory
    entries = [
        *backbone(config, "model.mllm_backbone."),
        *connector(config.connector, "connector/", "model.connector."),
    ]
    for part, ours, theirs in (
        (config.generator, "generator/", "model.transformer."),
        (config.autoencoder, "autoencoder/", "vae."),
    ):
        entries += diffusers_parts.entries(
            class_of(part), diffusers_parts.shapes(part), ours, theirs
        )
    return Table(
        tuple(entries),
        # What a release saves of the frozen model and this one does without.
        dropped=(
            r"model\.mllm_backbone\..*post_layernorm\..*",
            r"model\.mllm_backbone\..*vision_model\.head\..*",
            r"model\.mllm_backbone\..*inv_freq",
        )
        if getattr(config.vision, "features", "") != "post_norm"
        else (),
    )


def _write(export: Export) -> dict[str, str]:
    c, directory = export.config, export.directory
    ours = tokenizer_lib.load(export.tokenizer)
    tell_padding(ours.vocab_size, c.text.vocab_size, export.notes)
    begin, end = c.marks
    found = (ours.special.boi, ours.special.eoi)
    if found != (begin, end):
        raise UserError(
            "model.marks", f"{(begin, end)}, and a tokenizer whose marks are {found}",
            "the same", "Take the tokenizer that the run was trained with.",
        )  # fmt: skip
    content = {
        "architectures": ["MetaQuery"],
        "model_type": "metaquery",
        "torch_dtype": export.dtype,
        "loss_type": "flow" if c.schedule.is_flow else "diff",
        "num_metaqueries": c.queries,
        "connector_num_hidden_layers": c.connector.num_hidden_layers,
        "input_size": c.autoencoder.grid,
        "in_channels": c.autoencoder.latent_channels,
        "vae_downsample_f": c.autoencoder.downsampling,
        **special_ids(ours.special),
        _OWN: to_json(c, whole=True),
    }
    write_object(directory / "config.json", content)
    write_hf_tokenizer(export.tokenizer, directory, c.text.max_position_embeddings)
    return {}


def _record(source: Import) -> dict:
    c, tokens = source.config, source.tokenizer.tokens
    there = sum(f"<img{i}>" in tokens for i in range(c.queries))
    if 0 < there < c.queries:
        raise UserError(
            f"{source.directory}: num_metaqueries", f"{c.queries}, and a tokenizer with {there}",
            "a token <img0>, <img1>, ... for each, or for none",
            "Correct the number, or take the tokenizer of the model.",
        )  # fmt: skip
    usual = "qwen2.5_vl" if c.merges else "llava_onevision"
    return {"template": source.template or usual}


def _fits(config: MetaQueryConfig) -> bool:
    """Whether that code has such a frozen model: LLaVA-OneVision or Qwen2.5-VL."""
    return config.merges or (config.vision.kind == "siglip" and config.tiles == 1)


def _network(name: str, field: str):
    """Opens a diffusers directory as a part."""

    def opened(place: pathlib.Path, config: MetaQueryConfig, notes: list[str]) -> given.Opened:
        del notes
        found, table, weights = diffusers_parts.opened(place)
        expected = getattr(config, field)
        if type(found) is not type(expected):
            raise UserError(
                str(place), f"a {class_of(found)}", f"a {class_of(expected)}, as the config says",
                "Use the part that belongs to it.",
            )  # fmt: skip
        ignore = ("scaling_factor", "shift_factor", "image_size", "sample_size")
        check_same(str(place), found, expected, ignore)
        own = [Entry((f"{name}/{e.ours[0]}",), e.theirs, e.transform) for e in table.entries]
        return Table(tuple(own)), weights

    return opened


def _widths(config: MetaQueryConfig) -> dict[str, int]:
    return llama_widths(config.text) | {"width of the condition": config.connector.output_size}


def _sizes(config: MetaQueryConfig) -> dict[str, str]:
    ae, c = config.autoencoder, config.connector
    latents = f"{ae.grid} x {ae.grid} x {ae.latent_channels} latents"
    found = llama_size(config.text) | tower_size(config.vision)
    return found | {
        "queries": f"{config.queries}; a connector of {c.num_hidden_layers} blocks of {c.width}",
        "pictures": f"{ae.image_size} px, {latents}, drawn by a {class_of(config.generator)}",
    }


INTEROP = Interop(
    "metaquery",
    (
        Format(
            "metaquery",
            "model_type 'metaquery'",
            matches=lambda directory: model_type(directory) == "metaquery",
            read_config=_read_config,
            table=_table,
            write=_write,
            record=_record,
            tied=None,
            # There the head is left out: the model draws, and answers by its base's.
            may_lack=("language_model/lm_head",),
            loads="transformers and diffusers, each its part,",
            use=_USE,
            fits=_fits,
        ),
    ),
    Comparison(compare.prompts, compare.theirs, compare.ours),
    _ABOUT,
    _sizes,
    parts=(
        Part("llava", "a directory of LLaVA-NeXT, LLaVA-OneVision or Qwen2.5-VL", llava.part),
        Part("generator", "a diffusers SanaTransformer2DModel or UNet2DConditionModel directory",
             _network("generator", "generator")),
        Part("autoencoder", "a directory of a diffusers AutoencoderDC or AutoencoderKL",
             _network("autoencoder", "autoencoder")),
    ),
    stacks=lambda config: {
        "language_model/": config.text.num_hidden_layers,
        "vision_model/": config.vision.num_hidden_layers,
        "connector/": config.connector.num_hidden_layers,
        "generator/": getattr(config.generator, "num_layers", 1),
    },
    widths=_widths,
    unsaid=("dropout",),
)  # fmt: skip

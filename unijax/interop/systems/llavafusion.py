"""LLaVAFusion in Transfusion's form, with what reads pictures; its frozen model in its own forms.

The PyTorch file of that form is `modeling_llavafusion.py`, over Transfusion's. A frozen model alone
goes out as the LLaVA that it is, for whoever answers with it and never draws.
"""

import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np

from unijax.core.errors import UserError
from unijax.core.json_files import write_object
from unijax.core.system import Params
from unijax.data.templates import TEMPLATES
from unijax.data.tokenizer import Tokenizer
from unijax.interop import clip_parts, given
from unijax.interop.config_parts import model_type, read_config
from unijax.interop.interface import (
    Comparison,
    Export,
    Format,
    Import,
    Interop,
    Outputs,
    Part,
    said_template,
)
from unijax.interop.llava_parts import projector
from unijax.interop.opening import ForeignModel
from unijax.interop.parts import siglip, tower_size
from unijax.interop.registry import part_of
from unijax.interop.sections import Section
from unijax.interop.systems import llava, lmfusion
from unijax.interop.systems.transfusion import (
    compare,
    compare_reading,
    forms,
    table_of,
    use_of,
)
from unijax.interop.table import Table
from unijax.systems.llava import LlavaConfig
from unijax.systems.llavafusion import LLaVAFusion, LLaVAFusionConfig
from unijax.systems.reading import ReadingConfig

_SYSTEM = "llavafusion"
_ABOUT = (
    "LLaVAFusion: a model that reads pictures and draws by layers of its own for those "
    "([2412.15188](https://arxiv.org/abs/2412.15188))."
)
_USE = use_of(
    f"`{compare_reading.CODE}` and `{compare.CODE}` beside the weights are the whole model in\n"
    "PyTorch; they need torch and safetensors alone.",
    "modeling_llavafusion",
    "LLaVAFusion",
    "seen = model.embed_pictures(model.views(pictures))  # tokens of what is read, for "
    "`hidden_states`\n",
)
_TOWERS = ("clip", "siglip")


def _table(config: LLaVAFusionConfig, directory: pathlib.Path) -> Table:
    """Transfusion's, and what reads: names of transformers within our groups."""
    drawn = table_of(_SYSTEM, config, directory)
    if config.vision.kind == "clip":
        tower = clip_parts.hf_vision(config.vision)
    else:
        tower = siglip(config.vision, "vision_model", "vision_model.", "out_proj")
    return Table((*drawn.entries, *tower, *projector(config.newline, "aligner.")))


def _write(whole: Format, export: Export) -> dict[str, str]:
    kind = export.config.vision.kind
    if kind not in _TOWERS:
        raise UserError(
            "model.vision.kind", repr(kind), f"one of {[*_TOWERS]}, which {whole.loads} has",
            "This model cannot be exported.",
        )  # fmt: skip
    rows = whole.write(export)
    # How it is asked about pictures, which its own code need not know, but whoever imports it.
    template = (export.run["config"].get("data") or {}).get("template")
    if template is not None:
        content = read_config(export.directory) | {"template": template}
        write_object(export.directory / "config.json", content)
    return rows


def _record(source: Import) -> dict:
    values = Section(str(source.directory / "config.json"), read_config(source.directory))
    if source.template is None and "template" in values:
        values.require("template", *TEMPLATES)
        return {"template": values.get("template")}
    return said_template(source)


def _base_config(
    form: Format, directory: pathlib.Path, notes: list[str], like: Any
) -> LLaVAFusionConfig:
    """The run's, with the sizes of its frozen model as a directory of this one says them."""
    found = form.read_config(directory, notes, like)
    return dataclasses.replace(like, **_reading(found))


def _reading(config: ReadingConfig) -> dict[str, Any]:
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(ReadingConfig)}


def _formats(whole: Format) -> tuple[Format, ...]:
    """The whole, and the frozen model alone in each form of a LLaVA that it can be."""
    own = dataclasses.replace(
        whole, table=_table, write=functools.partial(_write, whole), record=_record, use=_USE
    )
    base = (
        dataclasses.replace(form, read_config=functools.partial(_base_config, form), whole=False)
        for form in llava.INTEROP.formats
        if form.name != "qwen"  # whose tower ends at the decoder's width
    )
    return (own, *base)


def _prompts(
    config: LLaVAFusionConfig, directory: pathlib.Path, rng: np.random.Generator
) -> llava.Prompts | compare_reading.Prompts:
    """What the form of the directory is compared with."""
    whole = model_type(directory) == _SYSTEM
    of = compare_reading.prompts if whole else llava.INTEROP.compare.prompts
    return of(config, directory, rng)


def _theirs(model: ForeignModel, given: Any) -> Outputs:
    is_base = isinstance(given, llava.Prompts)
    return (llava.INTEROP.compare if is_base else compare_reading).theirs(model, given)


def _ours(config: LLaVAFusionConfig, params: Params, given: Any, theirs: Outputs) -> Outputs:
    if not isinstance(given, llava.Prompts):
        return compare_reading.ours(config, params, given, theirs)
    return llava.INTEROP.compare.ours(LlavaConfig(**_reading(config)), params, given, theirs)


def _base(place: pathlib.Path, config: LLaVAFusionConfig, notes: list[str]) -> given.Opened:
    """The frozen model; the twin begins as a copy of its decoder."""
    return lmfusion.with_twin(_SYSTEM, config, *llava.part(place, config, notes))


def _conversations(tokenizer: Tokenizer) -> dict:
    """Turns of the base that the tokenizer is of."""
    of_llama = "<|start_header_id|>" in tokenizer.tokens
    return {"template": "llama3" if of_llama else "llava_onevision"}


def _interop() -> Interop:
    found = forms(
        _SYSTEM, LLaVAFusion, LLaVAFusionConfig, _ABOUT, code=(compare.CODE, compare_reading.CODE)
    )
    (whole,) = found.formats
    return dataclasses.replace(
        found,
        formats=_formats(whole),
        compare=Comparison(_prompts, _theirs, _ours, logits=("text", "shown text", "picture")),
        sizes=lambda config: found.sizes(config) | tower_size(config.vision),
        parts=(
            Part("base", "a directory of LLaVA-NeXT or LLaVA-OneVision", _base, has_tokenizer=True),
            part_of(lmfusion.INTEROP, "autoencoder"),
        ),
        stacks=lambda config: found.stacks(config) | llava.INTEROP.stacks(config),
        unsaid=(*found.unsaid, *llava.INTEROP.unsaid),
        conversations=_conversations,
    )


INTEROP = _interop()

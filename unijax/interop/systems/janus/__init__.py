"""Janus in transformers' form and in deepseek-ai's, and the parts that stage 1 starts from."""

import pathlib
from typing import Any

from unijax.data.tokenizer import Tokenizer
from unijax.interop import given, timm_tower
from unijax.interop.config_parts import model_type
from unijax.interop.interface import Comparison, Format, Interop, Part
from unijax.interop.parts import (
    llama_size,
    llama_widths,
    tower_size,
    tower_widths,
    vq_size,
    vq_widths,
)
from unijax.interop.systems.janus import (
    compare,
    configs,
    files,
    processor,
    reference,
    sizes,
    tables,
)
from unijax.interop.table import Table
from unijax.systems.janus import JanusConfig

_ABOUT = (
    "Janus: one decoder that reads text and pictures and writes text and pictures "
    "([2410.13848](https://arxiv.org/abs/2410.13848), "
    "[2501.17811](https://arxiv.org/abs/2501.17811))."
)

_HF_USE = """\
```python
from transformers import JanusForConditionalGeneration, JanusProcessor

model = JanusForConditionalGeneration.from_pretrained(FOLDER)
processor = JanusProcessor.from_pretrained(FOLDER)
```"""

_DEEPSEEK_USE = """\
```python
from janus.models import MultiModalityCausalLM, VLChatProcessor  # github.com/deepseek-ai/Janus

model = MultiModalityCausalLM.from_pretrained(FOLDER)
processor = VLChatProcessor.from_pretrained(FOLDER)
```"""


def _format(name: str, kind: str, write: Any, use: str, package: str) -> Format:
    def table(config: JanusConfig, directory: pathlib.Path) -> Table:
        del directory
        configs.require_tower(config, name)
        return tables.TABLES[name](config)

    return Format(
        name,
        f"model_type {kind!r}",
        matches=lambda directory: model_type(directory) == kind,
        read_config=lambda directory, notes, like: sizes.read_sizes(directory, name, notes),
        table=table,
        write=write,
        record=lambda source: processor.record(source, name),
        loads="JanusForConditionalGeneration",
        use=use,
        package=package,
        tied=name == "hf",
    )


def _llama(place: pathlib.Path, config: JanusConfig, notes: list[str]) -> given.Opened:
    return given.llama(place, config.text, notes)


def _siglip(place: pathlib.Path, config: JanusConfig, notes: list[str]) -> given.Opened:
    return given.siglip(place, config.vision, notes)


def _vq(place: pathlib.Path, config: JanusConfig, notes: list[str]) -> given.Opened:
    return given.llamagen_vq(place, config.vq, notes)


def _stacks(config: JanusConfig) -> dict[str, int]:
    return {
        "language_model/": config.text.num_hidden_layers,
        "vision_model/": config.vision.num_hidden_layers,
    }


def _widths(config: JanusConfig) -> dict[str, int]:
    return llama_widths(config.text) | tower_widths(config.vision) | vq_widths(config.vq)


def _sizes(config: JanusConfig) -> dict[str, str]:
    return llama_size(config.text) | tower_size(config.vision) | vq_size(config.vq)


def _eva(place: pathlib.Path, config: JanusConfig, notes: list[str]) -> given.Opened:
    return timm_tower.given(place, config.vision, notes)


def _conversations(tokenizer: Tokenizer) -> dict:
    return {"template": processor.by_tokens(tokenizer)[0]}


INTEROP = Interop(
    "janus",
    (
        _format("hf", "janus", files.write_hf_files, _HF_USE, "transformers"),
        _format("deepseek", "multi_modality", files.write_deepseek_files, _DEEPSEEK_USE, ""),
    ),
    Comparison(
        compare.make_prompts,
        reference.outputs,
        compare.outputs,
        logits=("text", "understanding", "generation"),
    ),
    _ABOUT,
    _sizes,
    parts=(
        Part("llama", given.LLAMA, _llama, has_tokenizer=True),
        Part("siglip", given.SIGLIP, _siglip),
        Part("eva", timm_tower.EVA, _eva),
        Part("vq", given.VQ, _vq),
    ),
    stacks=_stacks,
    widths=_widths,
    conversations=_conversations,
)

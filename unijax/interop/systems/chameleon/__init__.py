"""Chameleon in the form of transformers and of Meta's release, and the parts it may start from."""

import pathlib

from unijax.interop import given
from unijax.interop.config_parts import model_type
from unijax.interop.interface import Comparison, Format, Interop, Part
from unijax.interop.parts import llama_size, llama_widths, vq_size, vq_widths
from unijax.interop.systems.chameleon import compare, hf, meta, meta_files
from unijax.interop.table import Table
from unijax.systems.chameleon import ChameleonConfig

_ABOUT = (
    "Chameleon: one decoder over one vocabulary of text and image codes "
    "([2405.09818](https://arxiv.org/abs/2405.09818))."
)
_HF_USE = """\
```python
from transformers import ChameleonForConditionalGeneration, ChameleonProcessor

model = ChameleonForConditionalGeneration.from_pretrained(FOLDER)
processor = ChameleonProcessor.from_pretrained(FOLDER)
```"""
_META_USE = """\
```python
from chameleon.inference.chameleon import ChameleonInferenceModel  # facebookresearch/chameleon

model = ChameleonInferenceModel(
    "FOLDER/models/model/", "FOLDER/tokenizer/text_tokenizer.json",
    "FOLDER/tokenizer/vqgan.yaml", "FOLDER/tokenizer/vqgan.ckpt",
)
```"""


def _vq(place: pathlib.Path, config: ChameleonConfig, notes: list[str]) -> given.Opened:
    """Meta's `vqgan.ckpt`, or LlamaGen's tokenizer, by how the model compares codes."""
    if config.vq.unit_codes:
        return given.llamagen_vq(place, config.vq, notes)
    entries = tuple(hf.image_tokenizer(config.vq, ""))
    return Table(entries, dropped=(r"loss\..*",)), given.file_of(place, "state_dict")


def _widths(config: ChameleonConfig) -> dict[str, int]:
    return llama_widths(config.text) | vq_widths(config.vq)


def _sizes(config: ChameleonConfig) -> dict[str, str]:
    return llama_size(config.text) | vq_size(config.vq)


INTEROP = Interop(
    "chameleon",
    (
        Format(
            "hf",
            "model_type 'chameleon'",
            matches=lambda directory: model_type(directory) == "chameleon",
            read_config=hf.config,
            table=hf.table,
            write=hf.write,
            record=hf.record,
            weights=hf.weights,
            writer=hf.Writer,
            may_lack=("vqmodel/decoder/",),
            loads="ChameleonForConditionalGeneration",
            use=_HF_USE,
            package="transformers",
        ),
        Format(
            "meta",
            "models/SIZE/params.json of Meta's Chameleon",
            matches=meta.is_release,
            read_config=meta.config,
            table=meta.table,
            write=meta_files.write,
            weights=meta.weights,
            writer=meta_files.Writer,
            tokenizer_of=meta.text_tokenizer,
            tied=None,
            loads="ChameleonForConditionalGeneration",
            use=_META_USE,
        ),
    ),
    Comparison(compare.prompts, compare.theirs, compare.ours, logits=("text", "image")),
    _ABOUT,
    _sizes,
    parts=(Part("vq", "Meta's vqgan.ckpt, or LlamaGen's tokenizer where codes are unit", _vq),),
    stacks=lambda config: {"language_model/": config.text.num_hidden_layers},
    widths=_widths,
    unsaid=("dropout", "unit_codes", "max_position_embeddings"),
)

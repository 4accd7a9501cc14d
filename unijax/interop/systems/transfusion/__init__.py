"""Transfusion, of which there is no public format: safetensors, and a PyTorch file that runs them.

The names are those of transformers' Llama under `language_model`, and of diffusers under
`image_layers` and `autoencoder`; config.json holds the sizes as a checkpoint records them. Systems
that are a Transfusion with more to it have these forms too (`forms`).
"""

import functools
import pathlib
import shutil
from collections.abc import Callable, Collection
from typing import Any

from unijax.core.errors import UserError
from unijax.core.json_files import write_object
from unijax.core.record import build, to_json
from unijax.data import tokenizer as tokenizer_lib
from unijax.interop import diffusers_parts, given
from unijax.interop.config_files import llama_json
from unijax.interop.config_parts import model_type, read_config
from unijax.interop.hf_tokenizer import write_hf_tokenizer
from unijax.interop.interface import Comparison, Export, Format, Interop, Part
from unijax.interop.opening import abstract_params, check_same
from unijax.interop.parts import llama, llama_size, llama_widths
from unijax.interop.plain_sizes import check_limits
from unijax.interop.source_tokenizer import tell_padding
from unijax.interop.systems.transfusion import compare
from unijax.interop.systems.transfusion.compare import CODE
from unijax.interop.table import Entry, Table
from unijax.systems.transfusion import Transfusion, TransfusionConfig

_SAMPLERS = ("ddpm", "ddim")
_ABOUT = (
    "Transfusion: one decoder that predicts the next word of texts and the noise of images "
    "([2408.11039](https://arxiv.org/abs/2408.11039))."
)


def use_of(files: str, module: str, name: str, more: str = "") -> str:
    """How a card says that a PyTorch model draws.

    Args:
      files: what is said of its files.
      more: lines of code behind the rest.
    """
    return f"""\
{files}

```python
import torch
from {module} import {name}  # from this folder

model = {name}.from_pretrained(FOLDER)
special = model.config["special_token_ids"]
words = ...  # ids, by tokenizer.json, of a prompt as it learned them: a caption, or a chat's turns
latents = model.draw([special["bos"], *words, special["boi"]])  # no bos where "begins" is false
pixels = model.decode(latents)  # [1, 3, height, width], about -1..1
{more}```"""


_USE = use_of(
    f"`{CODE}` beside the weights is the whole model in PyTorch; it needs torch and "
    "safetensors alone.",
    "modeling_transfusion",
    "Transfusion",
)


def _read_config(
    kind: type[TransfusionConfig], directory: pathlib.Path, notes: list[str], like: Any
) -> TransfusionConfig:
    del notes, like
    path = directory / "config.json"
    values = read_config(directory).get("model")
    check_limits(values, f"{path}: model")
    return build(kind, values, f"{path}: model")


def decoder(config: TransfusionConfig, group: str, ours: Collection[str]) -> list[Entry]:
    """What there is, among the paths of ours, of the decoder in a group."""
    entries = llama(config.text, group, group, f"{group}.lm_head.weight")
    return [entry for entry in entries if entry.ours[0] in ours]


def table_of(system: str, config: TransfusionConfig, directory: pathlib.Path) -> Table:
    del directory
    shapes = {p: a.shape for p, a in abstract_params(system, config).items()}

    def network(name: str, group: str) -> list[Entry]:
        own = {p.removeprefix(f"{group}/"): s for p, s in shapes.items() if p.startswith(group)}
        return diffusers_parts.entries(name, own, f"{group}/", f"{group}.")

    return Table(
        (
            *decoder(config, "language_model", shapes),
            *decoder(config, "image_twin", shapes),
            *network("UNet2DConditionModel", "image_layers"),
            *network("AutoencoderKL", "autoencoder"),
        )
    )


def _write(system: str, code: tuple[str, ...], export: Export) -> dict[str, str]:
    c, directory = export.config, export.directory
    for name, found, allowed in (
        ("sampler", c.sampler, _SAMPLERS),
        ("schedule.kind", c.schedule.kind, ("linear", "scaled_linear", "squaredcos_cap_v2")),
    ):
        if found not in allowed:
            raise UserError(
                f"model.{name}", repr(found), f"one of {list(allowed)}, which {CODE} has",
                "This model cannot be exported.",
            )  # fmt: skip
    llama_json(c.text, export.dtype)  # refuses a decoder that is no plain Llama
    ours = tokenizer_lib.load(export.tokenizer)
    tell_padding(ours.vocab_size, c.text.vocab_size, export.notes)
    special = ours.special
    content = {
        "model_type": system,
        "torch_dtype": export.dtype,
        "special_token_ids": {
            name: getattr(special, name) for name in ("bos", "eos", "boi", "eoi")
        },
        "model": to_json(c, whole=True),
    }
    write_object(directory / "config.json", content)
    write_hf_tokenizer(export.tokenizer, directory, c.text.max_position_embeddings)
    for name in code:
        shutil.copyfile(pathlib.Path(__file__).with_name(name), directory / name)
    return {}


def llama_part(place: pathlib.Path, config: TransfusionConfig, notes: list[str]) -> given.Opened:
    return given.llama(place, config.text, notes)


def _autoencoder(place: pathlib.Path, config: TransfusionConfig, notes: list[str]) -> given.Opened:
    del notes
    found, table, weights = diffusers_parts.opened(place)
    ignore = ("scaling_factor", "shift_factor")  # of latents, which are the config's
    check_same(str(place), found, config.autoencoder, ignore)
    own = [Entry((f"autoencoder/{e.ours[0]}",), e.theirs, e.transform) for e in table.entries]
    return Table(tuple(own)), weights


def _widths(config: TransfusionConfig) -> dict[str, int]:
    channels = max(config.autoencoder.block_out_channels)
    return llama_widths(config.text) | {"channels of the autoencoder": channels}


def _sizes(config: TransfusionConfig) -> dict[str, str]:
    ae = config.autoencoder
    layers = "linear" if config.patches is not None else "U-Net"
    return llama_size(config.text) | {
        "images": f"{ae.image_size} px, {ae.grid} x {ae.grid} x {ae.latent_channels} latents in "
        f"{config.num_tokens} patches, {layers} layers",
    }


def forms(
    system: str,
    recipe: type[Transfusion],
    kind: type[TransfusionConfig],
    about: str,
    llama_of: Callable[..., given.Opened] = llama_part,
    code: tuple[str, ...] = (CODE,),
) -> Interop:
    """Of a system that is a Transfusion.

    Args:
      system: its name.
      recipe, kind: classes of it and of its config.
      about: a paragraph of the model card.
      llama_of: opens the part `llama`.
      code: names of the files here that run an export.
    """
    return Interop(
        system,
        (
            Format(
                "torch",
                f"model_type {system!r}",
                matches=lambda directory: model_type(directory) == system,
                read_config=functools.partial(_read_config, kind),
                table=functools.partial(table_of, system),
                write=functools.partial(_write, system, code),
                tied=None,
                loads=code[-1],
                use=_USE,
            ),
        ),
        Comparison(
            compare.prompts,
            compare.theirs,
            functools.partial(compare.ours, recipe),
            logits=("text",),
        ),
        about,
        _sizes,
        parts=(
            Part("llama", given.LLAMA, llama_of, has_tokenizer=True),
            Part("autoencoder", "a directory of a diffusers AutoencoderKL", _autoencoder),
        ),
        stacks=lambda config: dict.fromkeys(
            ("language_model/", "image_twin/"), config.text.num_hidden_layers
        ),
        widths=_widths,
        unsaid=("dropout",),
    )


INTEROP = forms("transfusion", Transfusion, TransfusionConfig, _ABOUT)

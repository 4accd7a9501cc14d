"""A foreign model directory, held to what its config says before anything is read of it."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping

import flax.linen as nn
import jax
import numpy as np

from unijax.core import tree
from unijax.core.errors import UserError
from unijax.core.json_files import shown
from unijax.interop import config_parts, configs, formats
from unijax.interop.sections import Section
from unijax.interop.sources import open_directory
from unijax.interop.table import Source, Table, TensorInfo, check_coverage, check_names
from unijax.systems.janus import Janus, JanusConfig

FIX = "Import a checkpoint of the kind and size that its config.json says."


@dataclasses.dataclass(frozen=True)
class ForeignModel:
    """A whole Janus of another project.

    Attributes:
      directory: where it is.
      format: "hf" or "deepseek".
      config: sizes.
      table: of its tensors.
      weights: each tensor of the table, once.
      notes: what is to be told.
    """

    directory: pathlib.Path
    format: str
    config: JanusConfig
    table: Table
    weights: Source
    notes: tuple[str, ...]


def open_model(source: str | pathlib.Path, format: str | None = None) -> ForeignModel:
    """Opens a model directory. Memory and time go by its tensors, whatever the config says.

    Args:
      format: "hf" or "deepseek"; by default what config.json says.

    Raises:
      UserError: for anything missing, unexpected, damaged or of another kind.
    """
    directory = existing_directory(source)
    format = configs.detect_format(directory) if format is None else format
    notes: list[str] = []
    config = configs.read_sizes(directory, format, notes)
    table = formats.FORMATS[format](config)
    weights, tied = untie(open_directory(directory), directory, table)
    check_names(table, _layers(config), weights, FIX)
    _check_within(config, weights)
    check_coverage(table, {p: a.shape for p, a in abstract_params(config).items()}, weights, FIX)
    return ForeignModel(directory, format, config, table, weights, (*tied, *notes))


@functools.cache
def abstract_params(config: JanusConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of every parameter by path. Nothing is allocated."""
    boxed = jax.eval_shape(Janus(config).init, jax.random.key(0))
    return tree.flatten(nn.unbox(boxed))


def existing_directory(path: str | pathlib.Path) -> pathlib.Path:
    """Raises UserError if it is none."""
    path = pathlib.Path(path)
    if (found := kind_of(path)) != "a directory":
        raise UserError(shown(str(path)), found, "a model directory", "Correct the path.")
    return path


def kind_of(path: pathlib.Path) -> str:
    """What is there, in words; nothing where the name is too long for anything."""
    try:
        kinds = {"a directory": path.is_dir(), "a file": path.is_file(), "no file": path.exists()}
    except (OSError, ValueError):
        return "nothing"
    return next((kind for kind, there in kinds.items() if there), "nothing")


def check_same(where: str, found: object, expected: object, ignore: tuple[str, ...]) -> None:
    """Raises UserError naming the sizes in which a part differs from the config."""
    other = [
        f"{f.name}={getattr(found, f.name)} instead of {getattr(expected, f.name)}"
        for f in dataclasses.fields(expected)
        if f.name not in ignore and getattr(found, f.name) != getattr(expected, f.name)
    ]
    if other:
        raise UserError(
            where, ", ".join(other), "the sizes of the config", "Use the part that belongs to it."
        )


class _Alias:
    """A source in which one tensor also goes by another name."""

    def __init__(self, source: Source, name: str, alias: str):
        self.where = source.where
        self.tensors: Mapping[str, TensorInfo] = {**source.tensors, alias: source.tensors[name]}
        self._source, self._name, self._alias = source, name, alias

    def read(self, name: str) -> np.ndarray:
        return self._source.read(self._name if name == self._alias else name)


def untie(weights: Source, directory: pathlib.Path, table: Table) -> tuple[Source, list[str]]:
    """A source that has a head of its own, as our model does, and what is to be said of it.

    Released Janus is untied, and its head is in the file. Configs do not tell: transformers'
    JanusConfig is tied unless its top level says otherwise. So what the file holds decides, and the
    embedding stands in for a missing head only where the config says that they are one.
    """
    embedding, head = (
        table.entry(f"language_model/{leaf}")[0].theirs
        for leaf in ("embed_tokens/embedding", "lm_head/kernel")
    )
    if head in weights.tensors or embedding not in weights.tensors:
        return weights, []
    values = config_parts.read_config(directory)
    tied = values.get("model_type") == "janus"
    config = Section(str(directory / "config.json"), values, {"tie_word_embeddings": tied})
    config.require("tie_word_embeddings", True, False)
    if not config.get("tie_word_embeddings"):
        return weights, []  # the head is missing, which the check of coverage reports
    note = f"{head} is tied to {embedding} in {directory}; here it is a parameter of its own"
    return _Alias(weights, embedding, head), [note]


def _layers(config: JanusConfig) -> dict[str, int]:
    """Length of every stack, by the beginning of our paths."""
    return {
        "language_model/": config.text.num_hidden_layers,
        "vision_model/": config.vision.num_hidden_layers,
    }


def _check_within(config: JanusConfig, weights: Source) -> None:
    """Refuses sizes that no tensor has, before anything is made of them."""
    largest = max((max(t.shape, default=1) for t in weights.tensors.values()), default=1)
    text, vision, vq = config.text, config.vision, config.vq
    sizes = {
        "vocab_size": text.vocab_size, "hidden_size": text.hidden_size,
        "intermediate_size": text.intermediate_size,
        "num_attention_heads * head_dim": text.num_attention_heads * text.head_dim,
        "num_key_value_heads * head_dim": text.num_key_value_heads * text.head_dim,
        "hidden_size of the tower": vision.hidden_size,
        "intermediate_size of the tower": vision.intermediate_size,
        "patches of a picture": vision.num_tokens, "latent_channels": vq.latent_channels,
        "channels of the image tokenizer": max(vq.level_channels),
        "num_embeddings": vq.num_embeddings, "embed_dim": vq.embed_dim,
    }  # fmt: skip
    if beyond := [f"{name} {size:,}" for name, size in sizes.items() if size > largest]:
        raise UserError(
            weights.where, ", ".join(beyond), f"sizes of its tensors, the largest of which is "
            f"{largest:,}", FIX,
        )  # fmt: skip

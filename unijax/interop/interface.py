"""What a system says of its foreign forms; `registry` finds it by the system's name.

Import, export and verification know no system: they ask an `Interop` which formats there are, and a
`Format` how its directories are told, read and written.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from unijax.core.system import Params
from unijax.data.tokenizer import Tokenizer
from unijax.interop.safetensors_writer import SafetensorsWriter
from unijax.interop.sources import open_directory
from unijax.interop.table import Source, Table, TensorInfo

Outputs = dict[str, np.ndarray]


@runtime_checkable
class Writer(Protocol):
    """Writes tensors by name, each once; `write` gives back what was written, in its dtype."""

    total_bytes: int

    def write(self, name: str, array: np.ndarray) -> np.ndarray: ...

    def close(self) -> None: ...


@dataclasses.dataclass(frozen=True)
class Export:
    """A directory that is being written, all but its weights.

    Attributes:
      directory: existing.
      config: sizes of the model.
      dtype: the widest of its tensors.
      tokenizer: directory of the run's; of a system without texts there is nothing.
      run: what the checkpoint records.
      read: parameters by path, from the checkpoint.
      notes: what is to be told is added to it.
    """

    directory: pathlib.Path
    config: Any
    dtype: str
    tokenizer: pathlib.Path
    run: Mapping[str, Any]
    read: Callable[[list[str]], dict[str, np.ndarray]]
    notes: list[str]


@dataclasses.dataclass(frozen=True)
class Import:
    """A directory that is being read, all but its weights.

    Attributes:
      directory: of the checkpoint.
      config: sizes of the model.
      tokenizer: of it, as it was imported.
      template: of conversations, as the user says it; None for what the files say.
      notes: what is to be told is added to it.
    """

    directory: pathlib.Path
    config: Any
    tokenizer: Tokenizer
    template: str | None
    notes: list[str]


def said_template(source: Import) -> dict:
    """What is recorded where the files say nothing of conversations."""
    return {} if source.template is None else {"template": source.template}


@dataclasses.dataclass(frozen=True)
class Format:
    """A form in which checkpoints of a system are found elsewhere.

    Attributes:
      name: of `--format`.
      kind: how its directories are told, in words.
      matches: whether a directory is one, by its small files alone.
      read_config: the sizes of a directory. Of a format that holds a part of the system alone
        (which `whole` tells) they are put into those of the run it is compared with.
      table: of its tensors. The small files of the directory are there already.
      write: the files beside the weights; returns rows for the model card's table.
      record: what an import records under `data`.
      tokenizer_of: the folder of a directory with its tokenizer.
      weights: of a directory.
      writer: of its tensors, into a directory.
      fits: whether it can say a config at all: without `--format` the first that can is taken.
      may_lack: what the paths of parameters begin with that a directory may be without.
      tied: whether a head that is missing is the embedding where its config says nothing; None
        where none may be missing.
      use: how it is loaded, in Markdown.
      package: that model cards name.
      loads: what loads it, in words.
    """

    name: str
    kind: str
    matches: Callable[[pathlib.Path], bool]
    read_config: Callable[[pathlib.Path, list[str], Any], Any]
    table: Callable[[Any, pathlib.Path], Table]
    write: Callable[[Export], dict[str, str]]
    loads: str
    use: str
    package: str = ""
    record: Callable[[Import], dict] = said_template
    whole: bool = True
    tokenizer_of: Callable[[pathlib.Path], pathlib.Path] = lambda directory: directory
    weights: Callable[[pathlib.Path], Source] = open_directory
    writer: Callable[[pathlib.Path, dict[str, TensorInfo], int], Writer] = SafetensorsWriter
    fits: Callable[[Any], bool] = lambda config: True
    may_lack: tuple[str, ...] = ()
    tied: bool | None = False


@dataclasses.dataclass(frozen=True)
class Part:
    """A network of a system that others trained alone.

    Attributes:
      name: of `--part NAME=PATH`.
      kind: what PATH is, in words.
      open: table and tensors, held to the config of the system.
      has_tokenizer: whether the tokenizer may be taken from it.
    """

    name: str
    kind: str
    open: Callable[[pathlib.Path, Any, list[str]], tuple[Table, Source]]
    has_tokenizer: bool = False


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What `verify` compares: the same inputs, worked by both.

    Attributes:
      prompts: inputs for a config, the directory of an export, and random numbers.
      theirs: outputs by name of the model in a directory (`opening.ForeignModel`), float32.
      ours: the same, from our parameters in float32. What the other side made is there, too: an
        output may be the input of another.
      logits: names of outputs whose last axis is one of logits.
    """

    prompts: Callable[[Any, pathlib.Path, np.random.Generator], Any]
    theirs: Callable[[Any, Any], Outputs]
    ours: Callable[[Any, Params, Any, Outputs], Outputs]
    logits: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Interop:
    """All of a system.

    Attributes:
      system: its name.
      formats: the first is what an export is in if nothing is said.
      parts: for `unijax import --part`.
      compare: for `unijax verify`.
      stacks: of a config, the length of every stack of layers by the beginning of our paths.
      widths: of a config, sizes that some tensor must have along an axis, by name.
      about: a paragraph of the model card.
      sizes: of a config, rows of the model card's table.
      task: of model cards.
      unsaid: fields of the networks' configs that formats do not say.
      conversations: of parts' tokenizer, what is recorded of conversations.
    """

    system: str
    formats: tuple[Format, ...]
    compare: Comparison
    about: str
    sizes: Callable[[Any], dict[str, str]]
    parts: tuple[Part, ...] = ()
    stacks: Callable[[Any], dict[str, int]] = lambda config: {}
    widths: Callable[[Any], dict[str, int]] = lambda config: {}
    task: str = "any-to-any"
    unsaid: tuple[str, ...] = ()
    conversations: Callable[[Tokenizer], dict] = lambda tokenizer: {}

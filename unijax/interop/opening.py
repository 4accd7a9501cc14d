"""A foreign model directory, held to what its config says before anything is read of it."""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from unijax.core import tree
from unijax.core.errors import UserError
from unijax.core.json_files import shown
from unijax.core.record import build
from unijax.core.system import init_shapes
from unijax.interop import registry
from unijax.interop.config_parts import read_config
from unijax.interop.interface import Format, Interop
from unijax.interop.sections import Section
from unijax.interop.table import Source, Table, TensorInfo, check_coverage, check_names
from unijax.systems.registry import recipe

_ON_THE_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
FIX = "Import a checkpoint of the kind and size that its config.json says."


@dataclasses.dataclass(frozen=True)
class ForeignModel:
    """A model of another project.

    Attributes:
      directory: where it is.
      interop: of its system.
      format: it is in.
      config: sizes.
      table: of its tensors.
      weights: each tensor of the table, once.
      notes: what is to be told.
    """

    directory: pathlib.Path
    interop: Interop
    format: Format
    config: Any
    table: Table
    weights: Source
    notes: tuple[str, ...]

    @functools.cached_property
    def paths(self) -> frozenset[str]:
        """Of the parameters that it has."""
        return frozenset(p for entry in self.table.entries for p in entry.ours)


def open_model(source: str | pathlib.Path, like: tuple[str, Any] | None = None) -> ForeignModel:
    """Opens a model directory. Memory and time go by its tensors, whatever the config says.

    Args:
      like: name and config of a system that the directory must be of.

    Raises:
      UserError: for anything missing, unexpected, damaged or of another kind.
    """
    directory = existing_directory(source)
    of, format = registry.recognize(directory, like and like[0])
    if like is not None and like[0] != of.system:
        raise UserError(
            str(directory), f"a checkpoint of the system {of.system!r}", f"one of {like[0]!r}",
            "Give the directory that this run was exported to.",
        )  # fmt: skip
    if like is None and not format.whole:
        parts = [f"--part {p.name}={shown(str(directory))}" for p in of.parts]
        raise UserError(
            str(directory), f"{format.kind}, a part of the system {of.system!r}",
            "a whole checkpoint", f"Import it with {' or '.join(parts)} and --config.",
        )  # fmt: skip
    notes: list[str] = []
    config = format.read_config(directory, notes, like and like[1])
    table = format.table(config, directory)
    weights, tied = format.weights(directory), []
    if format.tied is not None:
        weights, tied = untie(weights, directory, table, format.tied)
    check_names(table, of.stacks(config), weights, FIX)
    _check_within(of.widths(config), weights)
    shapes = {p: a.shape for p, a in abstract_params(of.system, config).items()}
    in_table = {p for entry in table.entries for p in entry.ours}
    lacks = {p for p in shapes.keys() - in_table if p.startswith(format.may_lack)}
    if format.whole:
        shapes = {p: s for p, s in shapes.items() if p not in lacks}
    else:
        shapes = {p: s for p, s in shapes.items() if p in in_table}
    check_coverage(table, shapes, weights, FIX)
    return ForeignModel(directory, of, format, config, table, weights, (*tied, *notes))


@functools.lru_cache(maxsize=8)
def abstract_params(system: str, config: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of every parameter by path. Nothing is allocated."""
    return tree.flatten(nn.unbox(init_shapes(recipe(system).system(config))))


def config_of(run: Mapping, where: str) -> tuple[str, Any]:
    """Name and config of the system that a checkpoint records.

    Raises:
      UserError: if there is no such system, or it does not have this config.
    """
    recorded = run.get("config") or {}
    of = recipe(str(recorded.get("system")))
    return of.name, build(of.config, recorded.get("model"), f"{where}: model of a {of.name}")


def existing_directory(path: str | pathlib.Path) -> pathlib.Path:
    """Raises UserError if it is none."""
    path = pathlib.Path(path)
    if (found := kind_of(path)) != "a directory":
        fix = "Correct the path."
        if found == "nothing" and _ON_THE_HUB.fullmatch(str(path)):
            fix = (
                f"If it is one of huggingface.co, fetch it first: pip install huggingface_hub; "
                f"hf download {path} --local-dir {path.name}; then give {path.name}."
            )
        raise UserError(shown(str(path)), found, "a model directory", fix)
    return path


def kind_of(path: pathlib.Path) -> str:
    """What is there, in words; nothing where the name is too long for anything."""
    try:
        kinds = {"a directory": path.is_dir(), "a file": path.is_file(), "no file": path.exists()}
    except (OSError, ValueError):
        return "nothing"
    return next((kind for kind, there in kinds.items() if there), "nothing")


def check_same(where: str, found: object, expected: object, ignore: tuple[str, ...]) -> None:
    """Raises UserError naming the sizes in which a network differs from the config."""
    other = [
        f"{f.name}={getattr(found, f.name)} instead of {getattr(expected, f.name)}"
        for f in dataclasses.fields(expected)
        if f.name not in ignore and getattr(found, f.name) != getattr(expected, f.name)
    ]
    if other:
        raise UserError(
            where, ", ".join(other), "the sizes of the config", "Use the part that belongs to it."
        )


def check_same_networks(where: str, found: object, expected: object, unsaid: tuple) -> None:
    """As `check_same`, for every network of a system's config."""
    for field in dataclasses.fields(expected):
        ours, theirs = getattr(expected, field.name), getattr(found, field.name)
        if not dataclasses.is_dataclass(ours):
            continue
        if type(ours) is not type(theirs) and theirs is not None:
            kinds = [type(x).__name__ for x in (theirs, ours)]
            raise UserError(
                where, f"{field.name} of the kind {kinds[0]}", f"{kinds[1]}, as the run has",
                "Give the directory that this run was exported to.",
            )  # fmt: skip
        if theirs is not None:
            check_same(where, theirs, ours, unsaid)


class _Alias:
    """A source in which one tensor also goes by another name."""

    def __init__(self, source: Source, name: str, alias: str):
        self.where = source.where
        self.tensors: Mapping[str, TensorInfo] = {**source.tensors, alias: source.tensors[name]}
        self._source, self._name, self._alias = source, name, alias

    def read(self, name: str) -> np.ndarray:
        return self._source.read(self._name if name == self._alias else name)


def untie(
    weights: Source, directory: pathlib.Path, table: Table, tied: bool
) -> tuple[Source, list[str]]:
    """A source that has a head of its own, as our model does, and what is to be said of it.

    Configs do not tell whether there is one: classes of transformers may be tied unless the top
    level says otherwise. So what the file holds decides, and head or embedding stands in for the
    other only where the config says that they are one; with both in the file, each is its own.

    Args:
      tied: what is so where the config says nothing.
    """
    paths = ("language_model/embed_tokens/embedding", "language_model/lm_head/kernel")
    names = {p: e.theirs for e in table.entries for p in e.ours if p in paths}
    if len(names) < len(paths):
        return weights, []
    embedding, head = (names[path] for path in paths)
    missing = [name for name in (embedding, head) if name not in weights.tensors]
    if len(missing) != 1:
        return weights, []
    values = read_config(directory)
    config = Section(str(directory / "config.json"), values, {"tie_word_embeddings": tied})
    config.require("tie_word_embeddings", True, False)
    if not config.get("tie_word_embeddings"):
        return weights, []  # the one is missing, which the check of coverage reports
    (there,) = {embedding, head} - {*missing}
    note = f"{missing[0]} is tied to {there} in {directory}; here it is a parameter of its own"
    return _Alias(weights, there, missing[0]), [note]


def _check_within(sizes: dict[str, int], weights: Source) -> None:
    """Refuses sizes that no tensor has, before anything is made of them."""
    largest = max((max(t.shape, default=1) for t in weights.tensors.values()), default=1)
    if beyond := [f"{name} {size:,}" for name, size in sizes.items() if size > largest]:
        raise UserError(
            weights.where, ", ".join(beyond), f"sizes of its tensors, the largest of which is "
            f"{largest:,}", FIX,
        )  # fmt: skip

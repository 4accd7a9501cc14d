"""Foreign checkpoints into run directories that training, sampling and export start from.

Tensors keep the dtype they are stored in. They are read, laid out anew and written one parameter at
a time, so that a checkpoint may be larger than memory.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from unijax.core import tree
from unijax.core.errors import UserError
from unijax.core.files import atomic_directory
from unijax.core.record import to_json
from unijax.data.templates import TEMPLATES
from unijax.interop import registry
from unijax.interop.interface import Import
from unijax.interop.model_card import licence_of, name_of
from unijax.interop.opening import FIX, abstract_params, open_model
from unijax.interop.source_tokenizer import import_tokenizer
from unijax.interop.table import (
    Shape,
    Source,
    Table,
    check_coverage,
    count_not_finite,
    read_leaf,
    some,
)
from unijax.systems.registry import recipe
from unijax.train import origin
from unijax.train.streaming import LazyArray, write_params

TOKENIZER = "tokenizer"  # folder of a run directory


@dataclasses.dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes:
      run_dir: where it is.
      config: sizes of the model.
      parameters: how many numbers were written.
      notes: what the user should know.
    """

    run_dir: pathlib.Path
    config: Any
    parameters: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.parameters:,} parameters imported into {self.run_dir}"]
        return "\n".join(lines + [f"note: {note}" for note in self.notes])


def import_checkpoint(
    source: str | pathlib.Path,
    run_dir: str | pathlib.Path,
    tokenizer: str | pathlib.Path | None = None,
    template: str | None = None,
) -> Imported:
    """A whole checkpoint into a new run directory, at step 0. Its files say of which system it is.

    Args:
      source: directory with config.json, weights and tokenizer files.
      run_dir: new or empty.
      tokenizer: directory to take the tokenizer from, if not `source`.
      template: of conversations, recorded for sampling; by default what the files of the source
        say.

    Raises:
      UserError: for anything missing, unexpected, damaged or of another kind; nothing is written.
    """
    _check_template(template)
    model = open_model(source)
    system, config, notes = model.interop.system, model.config, list(model.notes)
    abstract = abstract_params(system, config)
    shapes = {p: a.shape for p, a in abstract.items() if p in model.paths}
    wrong: list[str] = []
    params = _lazy(model.table, model.weights, shapes, wrong)
    if lacking := sorted(abstract.keys() - shapes.keys()):
        params |= _fresh(system, config, lacking, abstract, seed=0)
        groups = sorted({"/".join(path.split("/")[:2]) for path in lacking})
        notes.append(f"not in {model.directory}, and made at random: {', '.join(groups)}")
    data: dict = {}
    with atomic_directory(run_dir) as temporary:
        if recipe(system).eats == "rows":
            place = pathlib.Path(tokenizer or model.format.tokenizer_of(model.directory))
            rows = recipe(system).system(config).vocab_size
            ours = import_tokenizer(place, temporary / TOKENIZER, rows, notes)
            recipe(system).system(config).layout.check(ours.special)
            data = model.format.record(Import(model.directory, config, ours, template, notes))
        licence, files = licence_of(model.directory)
        came = {"imported": name_of(model.directory), "format": model.format.name}
        origin.write(temporary, origin.Origin((came,), licence, files))
        _write(temporary, system, config, params, data)
    return _imported(run_dir, config, params, notes, wrong)


def import_parts(
    run_dir: str | pathlib.Path,
    system: str,
    config: Any,
    parts: Mapping[str, str | pathlib.Path],
    tokenizer: str | pathlib.Path | None = None,
    template: str | None = None,
    seed: int = 0,
) -> Imported:
    """Networks that others trained into a new run directory; the rest is fresh.

    Args:
      run_dir: new or empty.
      system: its name.
      config: its sizes; each part must have those of its network.
      parts: places by the names that the system has for them (`interface.Part`).
      tokenizer: directory of the tokenizer; by default a part that has one.
      template: as in `import_checkpoint`.
      seed: of what is fresh, in float32.

    Raises:
      UserError: as `import_checkpoint`, and for a part that the system does not have.
    """
    _check_template(template)
    of = registry.interop(system)
    given = {registry.part_of(of, name): pathlib.Path(place) for name, place in parts.items()}
    abstract = abstract_params(system, config)
    shapes = {p: a.shape for p, a in abstract.items()}
    params: dict[str, LazyArray] = {}
    notes: list[str] = []
    wrong: list[str] = []
    for part, place in given.items():
        table, weights = part.open(place, config, notes)
        own = {p: shapes[p] for e in table.entries for p in e.ours}
        check_coverage(table, own, weights, FIX)
        params |= _lazy(table, weights, own, wrong)
        if tokenizer is None and part.has_tokenizer:
            tokenizer = place
    params |= _fresh(system, config, sorted(shapes.keys() - params.keys()), abstract, seed)
    with atomic_directory(run_dir) as temporary:
        data = {}
        if recipe(system).eats == "rows":
            data = {} if template is None else {"template": template}
            if tokenizer is None:
                notes.append("no tokenizer was given: sampling and export will need one")
            else:
                place, rows = pathlib.Path(tokenizer), recipe(system).system(config).vocab_size
                ours = import_tokenizer(place, temporary / TOKENIZER, rows, notes)
                data = of.conversations(ours) | data
        _write(temporary, system, config, params, data)
    return _imported(run_dir, config, params, notes, wrong)


def _lazy(
    table: Table, source: Source, shapes: dict[str, Shape], wrong: list[str]
) -> dict[str, LazyArray]:
    """Parameters by path; those that hold NaN are told in `wrong` as they are read."""

    def load(path: str, shape: Shape) -> np.ndarray:
        array = read_leaf(table, source, path, shape)
        if count := count_not_finite(array):
            name = table.entry(path)[0].theirs
            wrong.append(f"{count:,} of {array.size:,} in {name}")
        return array

    lazy = {}
    for path, shape in shapes.items():
        entry, _ = table.entry(path)
        dtype = source.tensors[entry.theirs.replace("{i}", "0")].dtype
        lazy[path] = LazyArray(tuple(shape), dtype, functools.partial(load, path, shape))
    return lazy


def _fresh(
    system: str,
    config: Any,
    paths: list[str],
    abstract: dict[str, jax.ShapeDtypeStruct],
    seed: int,
) -> dict[str, LazyArray]:
    """Parameters at random, as training would start them. Those not asked for are never made."""

    @jax.jit
    def init(key: jax.Array) -> dict[str, jax.Array]:
        params = tree.flatten(nn.unbox(recipe(system).system(config).init(key)))
        return {p: params[p] for p in paths}

    def load(path: str) -> np.ndarray:
        if not made:
            made.update(init(jax.random.key(seed)))
        return np.asarray(made[path])

    made: dict[str, jax.Array] = {}
    return {
        p: LazyArray(abstract[p].shape, np.dtype(abstract[p].dtype), lambda p=p: load(p))
        for p in paths
    }


def _check_template(template: str | None) -> None:
    if template is not None and template not in TEMPLATES:
        raise UserError("template", repr(template), f"one of {sorted(TEMPLATES)}", "Correct it.")


def _write(
    directory: pathlib.Path, system: str, config: Any, params: dict[str, LazyArray], data: dict
) -> None:
    """A run directory at step 0."""
    recorded = {"system": system, "model": to_json(config), "data": data}
    write_params(directory, dict(sorted(params.items())), {"stage": "import", "config": recorded})


def _imported(
    run_dir: str | pathlib.Path,
    config: Any,
    params: dict[str, LazyArray],
    notes: list[str],
    wrong: list[str],
) -> Imported:
    if wrong:
        notes.append(f"numbers that are NaN or infinite: {some(wrong)}")
    count = sum(int(np.prod(p.shape)) for p in params.values())
    return Imported(pathlib.Path(run_dir), config, count, tuple(notes))

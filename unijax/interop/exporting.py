"""Run directories into model directories that PyTorch code loads."""

import contextlib
import dataclasses
import math
import pathlib

import numpy as np
from jax.typing import DTypeLike

from unijax.core import storage
from unijax.core.errors import UserError
from unijax.core.paths import is_address
from unijax.interop import registry
from unijax.interop.importing import TOKENIZER
from unijax.interop.interface import Export, Writer
from unijax.interop.model_card import write_model_card
from unijax.interop.opening import abstract_params, config_of
from unijax.interop.table import (
    Entry,
    Shape,
    TensorInfo,
    count_not_finite,
    foreign_shapes,
    foreign_tensors,
    some,
)
from unijax.train import checkpoint, origin
from unijax.train.streaming import StoredParams, in_groups, nbytes


@dataclasses.dataclass(frozen=True)
class Exported:
    """What an export did.

    Attributes:
      path: the directory, or its address.
      tensors: how many were written.
      total_bytes: of them.
      notes: what the user should know.
    """

    path: str | pathlib.Path
    tensors: int
    total_bytes: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        size = f"{self.tensors} tensors, {self.total_bytes / 1e6:,.1f} MB"
        return "\n".join(
            [f"{size}, exported to {self.path}", *(f"note: {note}" for note in self.notes)]
        )


def run_root(path: str | pathlib.Path) -> pathlib.Path:
    """The run directory of a run directory, or of a step in it."""
    directory = checkpoint.step_directory(path)
    return directory.parent.parent


def export_checkpoint(
    run_dir: str | pathlib.Path,
    out: str | pathlib.Path,
    format: str | None = None,
    dtype: DTypeLike | None = None,
    max_shard_bytes: int = 5 * 2**30,
    tokenizer: str | pathlib.Path | None = None,
    licence: str | None = None,
) -> Exported:
    """Writes a model directory: the moving average of the parameters where one was kept.

    Args:
      run_dir: a run directory, or one step in it.
      out: new or empty, or an address with nothing below; it appears when it is whole.
      format: one of the system's, by default its first.
      dtype: of every tensor; by default each as it is stored.
      max_shard_bytes: of a file of weights.
      tokenizer: directory; by default the run's.
      licence: a file, or its name in model cards; by default what the import brought along.

    Raises:
      UserError: if the system has no foreign format or not this one, the run is of another size
        than it says, lacks a tokenizer, has a shape that the format cannot say, or `out` exists.
    """
    run = checkpoint.read_run(run_dir)
    system, config = config_of(run, str(run_dir))
    of = registry.interop(system)
    foreign = registry.format_of(of, format, config)
    tokenizer = pathlib.Path(tokenizer or run_root(run_dir) / TOKENIZER)
    stored = StoredParams(run_dir)
    shapes = {p: a.shape for p, a in abstract_params(system, config).items()}
    checkpoint.check_same(
        str(run_dir), {p: tuple(a.shape) for p, a in stored.arrays.items()}, shapes
    )
    widest = _named(dtype) if dtype else _widest(a.dtype for a in stored.arrays.values())
    notes: list[str] = []
    with storage.whole_directory(out) as directory:
        files = Export(directory, config, widest.name, tokenizer, run, stored.read, notes)
        facts = {"numbers": widest.name} | foreign.write(files)
        table = foreign.table(config, directory)
        tensors = _plan(table.entries, foreign_shapes(table, shapes), stored, dtype)
        writer = foreign.writer(directory, tensors, max_shard_bytes)
        size = lambda e: sum(nbytes(stored.arrays[p]) for p in e.ours)  # noqa: E731
        wrong: list[str] = []
        beyond: list[str] = []
        for group in in_groups(table.entries, size):
            _write_group(writer, group, stored, wrong, beyond)
        writer.close()
        notes += _left_out(shapes, table.entries)
        if wrong:
            notes.append(f"numbers that are NaN or infinite: {some(wrong)}")
        if beyond:
            notes.append(f"numbers that are infinite in the dtype of the export: {some(beyond)}")
        before = origin.read(run_root(run_dir))
        numbers = sum(math.prod(t.shape) for t in tensors.values())
        sizes = {"parameters": f"{numbers:,}"} | of.sizes(config) | facts
        title = pathlib.Path(out).name
        if not write_model_card(directory, title, of, foreign, sizes, run, before, licence):
            notes.append("no licence is known: give one with --license before it is published")
    place = out if is_address(out) else pathlib.Path(out)
    return Exported(place, len(tensors), writer.total_bytes, tuple(notes))


def _named(dtype: DTypeLike) -> np.dtype:
    with contextlib.suppress(TypeError):
        if (found := np.dtype(dtype)).name in ("float32", "bfloat16", "float16"):
            return found
    raise UserError("dtype", repr(dtype), "float32, bfloat16 or float16", "Choose one.")


def _widest(dtypes) -> np.dtype:
    return max(map(np.dtype, dtypes), key=lambda d: d.itemsize)


def _left_out(shapes: dict[str, Shape], entries: tuple[Entry, ...]) -> list[str]:
    """What is to be told of the parameters that the format has no place for."""
    left = shapes.keys() - {p for entry in entries for p in entry.ours}
    if not left:
        return []
    groups = sorted({path.split("/")[0] for path in left})
    return [f"this format has no place for {', '.join(groups)}: {len(left)} parameters left out"]


def _plan(
    entries: tuple[Entry, ...],
    shapes: dict[str, tuple[int, ...]],
    stored: StoredParams,
    dtype: DTypeLike | None,
) -> dict[str, TensorInfo]:
    """Shape and dtype of every tensor to be written."""
    plan = {}
    for entry in entries:
        kinds = {np.dtype(dtype or stored.arrays[p].dtype) for p in entry.ours}
        if len(kinds) > 1:
            raise UserError(
                entry.theirs,
                f"parts in {sorted(k.name for k in kinds)}",
                "one dtype",
                "Choose one with --dtype.",
            )
        layers = stored.arrays[entry.ours[0]].shape[0] if entry.stacked else 1
        for name in entry.names(layers):
            plan[name] = TensorInfo(tuple(shapes[name]), *kinds)
    return plan


def _write_group(
    writer: Writer,
    group: list[Entry],
    stored: StoredParams,
    wrong: list[str],
    beyond: list[str],
) -> None:
    """Tensors that hold NaN are told in `wrong`, numbers too large for their dtype in `beyond`."""
    params = stored.read(p for entry in group for p in entry.ours)
    for entry in group:
        for name, array in foreign_tensors(entry, [params[p] for p in entry.ours]):
            count = count_not_finite(writer.write(name, array))
            before = count_not_finite(array) if count else 0
            if before:
                wrong.append(f"{before:,} of {array.size:,} in {name}")
            if count > before:
                beyond.append(f"{count - before:,} of {array.size:,} in {name}")

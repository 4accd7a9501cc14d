"""Run directories into model directories that PyTorch code loads."""

import dataclasses
import math
import pathlib

import numpy as np
from jax.typing import DTypeLike

from unijax.core.errors import UserError
from unijax.core.files import atomic_directory
from unijax.data import tokenizer as tokenizer_lib
from unijax.interop import configs, export_files, formats
from unijax.interop.importing import TOKENIZER
from unijax.interop.model_card import write_model_card
from unijax.interop.opening import abstract_params
from unijax.interop.safetensors_writer import SafetensorsWriter
from unijax.interop.source_processor import ROUNDING, Preparation, preparation
from unijax.interop.source_tokenizer import padded
from unijax.interop.table import (
    Entry,
    TensorInfo,
    count_not_finite,
    foreign_shapes,
    foreign_tensors,
    some,
)
from unijax.systems.janus import JanusConfig
from unijax.train import checkpoint, origin
from unijax.train.streaming import StoredParams, in_groups, nbytes


@dataclasses.dataclass(frozen=True)
class Exported:
    """What an export did.

    Attributes:
      path: the directory.
      tensors: how many were written.
      total_bytes: of them.
      notes: what the user should know.
    """

    path: pathlib.Path
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
    format: str = "hf",
    dtype: DTypeLike | None = None,
    max_shard_bytes: int = 5 * 2**30,
    tokenizer: str | pathlib.Path | None = None,
    licence: str | None = None,
) -> Exported:
    """Writes a model directory: the moving average of the parameters where one was kept.

    Args:
      run_dir: of a Janus, or one step in it.
      out: new or empty; it appears when it is whole.
      format: "hf" or "deepseek".
      dtype: of every tensor; by default each as it is stored.
      max_shard_bytes: of a safetensors file.
      tokenizer: directory; by default the run's.
      licence: a file, or its name in model cards; by default what the import brought along.

    Raises:
      UserError: if the run is of another system or size than it says, lacks a tokenizer, has a
        shape that the format cannot say, or `out` exists.
    """
    run = checkpoint.read_run(run_dir)
    config = configs.from_run(run, str(run_dir))
    done = preparation(run)
    tokenizer = pathlib.Path(tokenizer or run_root(run_dir) / TOKENIZER)
    stored = StoredParams(run_dir)
    shapes = {p: a.shape for p, a in abstract_params(config).items()}
    checkpoint.check_same(
        str(run_dir), {p: tuple(a.shape) for p, a in stored.arrays.items()}, shapes
    )
    table = formats.FORMATS[format](config)
    tensors = _plan(table.entries, foreign_shapes(table, shapes), stored, dtype)
    widest = max((t.dtype for t in tensors.values()), key=lambda d: d.itemsize).name
    notes = _notes(config, format, done, tokenizer)
    with atomic_directory(out) as directory:
        write = {"hf": export_files.write_hf_files, "deepseek": export_files.write_deepseek_files}
        write[format](directory, config, widest, tokenizer, done)
        writer = SafetensorsWriter(directory, tensors, max_shard_bytes)
        size = lambda e: sum(nbytes(stored.arrays[p]) for p in e.ours)  # noqa: E731
        wrong: list[str] = []
        beyond: list[str] = []
        for group in in_groups(table.entries, size):
            _write_group(writer, group, stored, wrong, beyond)
        writer.close()
        if wrong:
            notes.append(f"numbers that are NaN or infinite: {some(wrong)}")
        if beyond:
            notes.append(f"numbers that are infinite in the dtype of the export: {some(beyond)}")
        before = origin.read(run_root(run_dir))
        numbers = sum(math.prod(t.shape) for t in tensors.values())
        facts = {
            "numbers": widest,
            "conversations": done.template,
            "short side of pictures": done.und_rounding,
            "tokens of a row in training": f"{done.row_length:,}" if done.row_length else "unknown",
        }
        if not write_model_card(
            directory, pathlib.Path(out).name, run, before, config, numbers, format, facts, licence
        ):
            notes.append("no licence is known: give one with --license before it is published")
    return Exported(pathlib.Path(out), len(tensors), writer.total_bytes, tuple(notes))


def _notes(
    config: JanusConfig, format: str, done: Preparation, tokenizer: pathlib.Path
) -> list[str]:
    notes = []
    ids, rows = tokenizer_lib.load(tokenizer).vocab_size, config.text.vocab_size
    if ids < rows:
        notes.append(padded(ids, rows))
    theirs = ROUNDING[format]
    if theirs != done.und_rounding:
        notes.append(
            f"the short side of a picture was scaled by {done.und_rounding!r} here, and is by "
            f"{theirs!r} in the code that loads this format: at times a pixel more or less"
        )
    return notes


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
    writer: SafetensorsWriter,
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

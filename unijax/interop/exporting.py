"""Run directories into model directories that PyTorch code loads."""

import dataclasses
import pathlib

import numpy as np
from jax.typing import DTypeLike

from unijax.core.errors import UserError
from unijax.core.files import atomic_directory
from unijax.data.templates import TEMPLATES
from unijax.interop import configs, export_files, formats
from unijax.interop.importing import TOKENIZER, abstract_params
from unijax.interop.safetensors_writer import SafetensorsWriter
from unijax.interop.table import Entry, TensorInfo, foreign_shapes, foreign_tensors
from unijax.train import checkpoint
from unijax.train.streaming import StoredParams, in_groups, nbytes


@dataclasses.dataclass(frozen=True)
class Exported:
    """What an export did.

    Attributes:
      path: the directory.
      tensors: how many were written.
      total_bytes: of them.
    """

    path: pathlib.Path
    tensors: int
    total_bytes: int

    def __str__(self) -> str:
        return f"{self.tensors} tensors, {self.total_bytes / 1e6:,.1f} MB, exported to {self.path}"


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
) -> Exported:
    """Writes a model directory: the moving average of the parameters where one was kept.

    Args:
      run_dir: of a Janus, or one step in it.
      out: new or empty; it appears when it is whole.
      format: "hf" or "deepseek".
      dtype: of every tensor; by default each as it is stored.
      max_shard_bytes: of a safetensors file.
      tokenizer: directory; by default the run's.

    Raises:
      UserError: if the run is of another system or size than it says, lacks a tokenizer, has a
        shape that the format cannot say, or `out` exists.
    """
    run = checkpoint.read_run(run_dir)
    config = configs.from_run(run, str(run_dir))
    template = TEMPLATES[run["config"].get("data", {}).get("template", "janus_pro")]
    tokenizer = pathlib.Path(tokenizer or run_root(run_dir) / TOKENIZER)
    stored = StoredParams(run_dir)
    shapes = {p: a.shape for p, a in abstract_params(config).items()}
    checkpoint.check_same(
        str(run_dir), {p: tuple(a.shape) for p, a in stored.arrays.items()}, shapes
    )
    table = formats.FORMATS[format](config)
    tensors = _plan(table.entries, foreign_shapes(table, shapes), stored, dtype)
    widest = max((t.dtype for t in tensors.values()), key=lambda d: d.itemsize)
    with atomic_directory(out) as directory:
        if format == "hf":
            export_files.write_hf_files(directory, config, widest.name, tokenizer, template)
        else:
            export_files.write_deepseek_files(directory, config, widest.name, tokenizer)
        writer = SafetensorsWriter(directory, tensors, max_shard_bytes)
        size = lambda e: sum(nbytes(stored.arrays[p]) for p in e.ours)  # noqa: E731
        for group in in_groups(table.entries, size):
            _write_group(writer, group, stored)
        writer.close()
    return Exported(pathlib.Path(out), len(tensors), writer.total_bytes)


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


def _write_group(writer: SafetensorsWriter, group: list[Entry], stored: StoredParams) -> None:
    params = stored.read(p for entry in group for p in entry.ours)
    for entry in group:
        for name, array in foreign_tensors(entry, [params[p] for p in entry.ours]):
            writer.write(name, array)

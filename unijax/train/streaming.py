"""Checkpoints larger than memory: parameters written and read a few at a time.

The layout is that of `train.checkpoint`, so that training starts from what is written here and what
training wrote is read here.
"""

import contextlib
import dataclasses
import errno
import logging
import math
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from unijax.core import tree
from unijax.core.errors import UserError
from unijax.train import base as base_lib
from unijax.train import checkpoint
from unijax.train.lora import LEAVES, folded, is_adapter

T = TypeVar("T")

GROUP_BYTES = 2**28  # of parameters that are in memory together, unless one alone is larger
_CHUNK_BYTES = 2**27  # unit of compression


@dataclasses.dataclass(frozen=True)
class LazyArray:
    """A parameter that exists once it is asked for.

    Attributes:
      shape: of what `load` returns.
      dtype: of the same.
      load: makes the array; called once, and the result is forgotten when it is on disk.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    load: Callable[[], np.ndarray]


class _InGroups(ocp.type_handlers.NumpyHandler):
    """Writes lazy arrays in sequence: each group is wholly on disk before the next one is made."""

    def __init__(self):
        super().__init__(deepcopy_host_arrays=False)

    async def serialize(self, values, infos, args=None):
        for group in in_groups(range(len(values)), lambda i: nbytes(values[i])):
            arrays = [values[i].load() for i in group]
            assert all(x.shape == values[i].shape for i, x in zip(group, arrays))
            assert all(x.dtype == values[i].dtype for i, x in zip(group, arrays))
            writes = []
            for i, array in zip(group, arrays):
                writes += await super().serialize([array], [infos[i]], [args[i]])
            # All are awaited before the first failure is told: none may write when its directory
            # is being removed.
            failures = [e for e in (_failure(w.result) for w in writes) if e is not None]
            if failures:
                raise failures[0]
            del array, arrays, writes  # before the next ones are made
        return []


def _failure(wait: Callable[[], object]) -> Exception | None:
    """Of a write. A full disk, which tensorstore reports in words, is an OSError as elsewhere."""
    try:
        wait()
    except ValueError as e:
        if os.strerror(errno.ENOSPC) in str(e):
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return e
    return None


def nbytes(array: LazyArray | jax.ShapeDtypeStruct) -> int:
    """Of an array that is described."""
    return math.prod(array.shape) * np.dtype(array.dtype).itemsize


def in_groups(items: Iterable[T], size: Callable[[T], int]) -> list[list[T]]:
    """Items whose arrays are handled together: many small ones, or one that is large.

    Args:
      items: in order.
      size: bytes of an item.
    """
    groups: list[list[T]] = []
    room = 0
    for item in items:
        if size(item) > room:
            groups.append([])
            room = GROUP_BYTES
        groups[-1].append(item)
        room -= size(item)
    return groups


def write_params(
    run_dir: str | pathlib.Path, params: dict[str, LazyArray], run: dict, step: int = 0
) -> None:
    """Writes `checkpoints/<step>/` of a run directory that has none, parameters only.

    Holds a group of small parameters or one large one at a time, and as much again while it is
    compressed.

    Args:
      run_dir: existing directory.
      params: by path.
      run: JSON description of the run: stage and resolved config.

    Raises:
      UserError: if the disk is too small.
      OSError: if it fills up all the same.
    """
    directory = pathlib.Path(run_dir).absolute() / checkpoint.FOLDER
    directory.mkdir()
    needed = sum(map(nbytes, params.values()))
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise UserError(
            str(directory),
            f"{free / 1e6:,.0f} MB free",
            f"room for {needed / 1e6:,.0f} MB of parameters",
            "Free space or choose another --run-dir.",
        )
    with _quiet(logging.getLogger("absl")):
        _save(directory, params, run, step)


def _save(directory: pathlib.Path, params: dict[str, LazyArray], run: dict, step: int) -> None:
    registry = ocp.type_handlers.create_type_handler_registry((LazyArray, _InGroups()))
    items = {
        "params": ocp.PyTreeCheckpointHandler(type_handler_registry=registry),
        "run": ocp.JsonCheckpointHandler(),
    }
    nested = tree.unflatten(params)
    chunks = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=_CHUNK_BYTES), nested)
    args = ocp.args.Composite(
        params=ocp.args.PyTreeSave(nested, save_args=chunks),
        run=ocp.args.JsonSave(checkpoint.signed({"data": {}} | run)),
    )
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    with ocp.CheckpointManager(directory, options=options, item_handlers=items) as manager:
        manager.save(step, args=args)


@contextlib.contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Orbax narrates, and prints the traceback of what it raises."""
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


class StoredParams:
    """The parameters of a checkpoint, the moving average where one was kept, read on demand.

    Adapters are folded into their kernels. What a checkpoint left in its base is read from there.

    Attributes:
      arrays: shape and dtype of every path.
      run: what the checkpoint records.
    """

    def __init__(self, path: str | pathlib.Path):
        """`path` is a run directory or one step in it. Raises UserError if there is none."""
        directory = checkpoint.step_directory(path)
        self._reader = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
        self._directory, self.run = directory, checkpoint.read_run(directory)
        self._item: dict[str, pathlib.Path] = {}
        base = base_lib.of(self.run, directory)
        self._base = None if base is None else StoredParams(base)
        self.arrays: dict[str, jax.ShapeDtypeStruct] = dict(self._base.arrays) if base else {}
        for name in ("params", "ema"):
            if (directory / name).exists():
                metadata = self._reader.metadata(directory / name).item_metadata.tree
                for p, m in tree.flatten(metadata).items():
                    self._item[p] = directory / name
                    if not is_adapter(p):
                        self.arrays[p] = jax.ShapeDtypeStruct(tuple(m.shape), m.dtype)

    def read(self, paths: Iterable[str]) -> dict[str, np.ndarray]:
        """Host arrays, in the dtypes on disk."""
        paths = list(paths)
        beside = [
            f"{p.rpartition('/')[0]}/{leaf}"
            for p in paths
            if p.endswith("kernel")
            for leaf in LEAVES
        ]
        own = [p for p in paths if p in self._item]
        found = self._read([*own, *(p for p in beside if p in self._item)])
        if self._base is not None:
            below = self._base.read(p for p in paths if p not in self._item)
            base_lib.check(str(self._directory), self.run, below)
            found |= below
        return {p: np.asarray(x) for p, x in folded(found).items()}

    def adapters(self) -> dict[str, np.ndarray]:
        """Those of this checkpoint, as they are beside their kernels."""
        return self._read([p for p in self._item if is_adapter(p)])

    def _read(self, paths: list[str]) -> dict[str, np.ndarray]:
        out = {}
        for item in sorted({self._item[p] for p in paths}):
            # A partial restore takes the structure alone from its first argument.
            wanted = tree.unflatten({p: 0 for p in paths if self._item[p] == item})
            host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
            args = ocp.args.PyTreeRestore(wanted, restore_args=host, partial_restore=True)
            out |= tree.flatten(self._reader.restore(item, args=args))
        return out

"""Sharded safetensors files, written one tensor at a time in any order.

The library writes a shard only from tensors that are all in memory. Ours come as stacks of layers,
while shards hold layers: so every file is laid out first (8 bytes with the header's length, a JSON
header, the tensors without gaps) and each tensor is put in its place when it exists.
"""

import json
import pathlib
import re
import shutil

import numpy as np

from unijax.core.errors import UserError
from unijax.interop.table import TensorInfo

_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}


class SafetensorsWriter:
    """Writes `model.safetensors`, or shards of it and their index."""

    def __init__(
        self,
        directory: pathlib.Path,
        tensors: dict[str, TensorInfo],
        max_shard_bytes: int,
        stem: str = "model",
    ):
        """Lays out the files.

        Args:
          directory: existing.
          tensors: everything that will be written.
          max_shard_bytes: of the tensors of a file; a larger tensor gets a file of its own.
          stem: of the files' names.

        Raises:
          UserError: if the disk is too small.
        """
        self._tensors = tensors
        self._place: dict[str, tuple[pathlib.Path, int]] = {}  # file, offset
        self._left = set(tensors)
        self._directory = directory
        self._stem = stem
        self.total_bytes = sum(map(_nbytes, tensors.values()))
        free = shutil.disk_usage(directory).free
        if free < self.total_bytes:
            raise UserError(
                str(directory.parent),
                f"{free / 1e6:,.0f} MB free",
                f"room for {self.total_bytes / 1e6:,.0f} MB of tensors",
                "Free space or choose another place.",
            )
        shards = _shards(tensors, max_shard_bytes)
        for i, names in enumerate(shards):
            number = f"-{i + 1:05d}-of-{len(shards):05d}" if len(shards) > 1 else ""
            self._lay_out(directory / f"{stem}{number}.safetensors", names)

    def _lay_out(self, file: pathlib.Path, names: list[str]) -> None:
        header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
        end = 0
        # Wide types first, so that every tensor is aligned to its own.
        for name in sorted(names, key=lambda n: -self._tensors[n].dtype.itemsize):
            info, start = self._tensors[name], end
            end += _nbytes(info)
            header[name] = {
                "dtype": _DTYPES[info.dtype.name],
                "shape": list(info.shape),
                "data_offsets": [start, end],
            }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with file.open("wb") as f:
            f.write(len(text).to_bytes(8, "little") + text)
            f.truncate(8 + len(text) + end)
        for name in names:
            self._place[name] = (file, 8 + len(text) + header[name]["data_offsets"][0])

    def write(self, name: str, array: np.ndarray) -> np.ndarray:
        """Puts a tensor in its place, once, cast to the dtype that was announced; returns it."""
        info = self._tensors[name]
        assert tuple(array.shape) == info.shape, name
        self._left.remove(name)
        file, offset = self._place[name]
        with np.errstate(over="ignore"):  # what does not fit is for the caller to tell
            cast = np.ascontiguousarray(array, info.dtype)
        with file.open("r+b") as f:
            f.seek(offset)
            f.write(cast.reshape(-1).view(np.uint8).data)
        return cast

    def close(self) -> None:
        """Writes the index of several shards. Every tensor must have been written."""
        assert not self._left, sorted(self._left)
        if len({file for file, _ in self._place.values()}) > 1:
            index = {
                "metadata": {"total_size": self.total_bytes},
                "weight_map": {name: file.name for name, (file, _) in self._place.items()},
            }
            path = self._directory / f"{self._stem}.safetensors.index.json"
            path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _nbytes(info: TensorInfo) -> int:
    return int(np.prod(info.shape)) * info.dtype.itemsize


def _shards(tensors: dict[str, TensorInfo], most: int) -> list[list[str]]:
    """Names by file, in the order in which a reader goes through the layers."""
    shards: list[list[str]] = [[]]
    used = 0
    for name in sorted(tensors, key=_by_number):
        size = _nbytes(tensors[name])
        if shards[-1] and used + size > most:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    return shards


def _by_number(name: str) -> list:
    """Layer 10 comes after layer 9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]

"""Networks in folders of one directory, each as its own library has it, as one set of tensors.

A name begins with its folder and a slash; those without one are of the directory's own files, or of
a folder that stands for them.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from unijax.core.errors import UserError
from unijax.interop.safetensors_writer import SafetensorsWriter
from unijax.interop.sources import Together, open_directory
from unijax.interop.table import Source, TensorInfo


@dataclasses.dataclass(frozen=True)
class Folder:
    """Where tensors are.

    Attributes:
      prefix: of their names; ends with a slash or is empty.
      path: of the folder, in the directory.
      stem: of its files; by default transformers'.
    """

    prefix: str
    path: str
    stem: str = ""


class _Named:
    """A source whose names begin with a prefix."""

    def __init__(self, source: Source, prefix: str):
        self.where, self._source, self._prefix = source.where, source, prefix
        self.tensors: Mapping[str, TensorInfo] = {
            prefix + name: info for name, info in source.tensors.items()
        }

    def read(self, name: str) -> np.ndarray:
        return self._source.read(name.removeprefix(self._prefix))


def open_folders(directory: pathlib.Path, folders: Sequence[Folder]) -> Source:
    """The tensors of the folders that are there.

    Raises:
      UserError: if the first is not, or a file of one is not what its name says.
    """
    found = []
    for i, folder in enumerate(folders):
        place = directory / folder.path
        if i and not place.is_dir():
            continue
        if not place.is_dir():
            raise UserError(
                str(place), "nothing", "a folder with weights", "Give the whole directory."
            )
        found.append(_Named(open_directory(place, folder.stem), folder.prefix))
    return Together(*found)


class FoldersWriter:
    """Writes each tensor into its folder. See `interface.Writer`."""

    def __init__(
        self,
        folders: Sequence[Folder],
        directory: pathlib.Path,
        tensors: dict[str, TensorInfo],
        max_shard_bytes: int,
    ):
        self._longest = sorted(folders, key=lambda folder: -len(folder.prefix))
        self._writers: dict[str, SafetensorsWriter] = {}
        for folder in folders:
            own = {
                name.removeprefix(folder.prefix): info
                for name, info in tensors.items()
                if self._folder(name) == folder
            }
            if own:
                place = directory / folder.path
                place.mkdir(parents=True, exist_ok=True)
                stem = folder.stem or "model"
                writer = SafetensorsWriter(place, own, max_shard_bytes, stem)
                self._writers[folder.prefix] = writer
        self.total_bytes = sum(writer.total_bytes for writer in self._writers.values())

    def _folder(self, name: str) -> Folder:
        return next(folder for folder in self._longest if name.startswith(folder.prefix))

    def write(self, name: str, array: np.ndarray) -> np.ndarray:
        prefix = self._folder(name).prefix
        return self._writers[prefix].write(name.removeprefix(prefix), array)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()

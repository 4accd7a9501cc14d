"""Foreign checkpoints as named tensors that are read one at a time.

Files are opened anew after every GiB read: pages of a mapped file count as memory of the process
until it is closed.
"""

import pathlib
import pickle
import re
from collections.abc import Mapping

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from unijax.core.errors import UserError
from unijax.core.json_files import quoted, read_object, shown
from unijax.interop.table import Source, TensorInfo

_SAFETENSORS_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8,
    "BOOL": np.bool_,
}  # fmt: skip
_TORCH_DTYPES = {
    "float64": np.float64, "float32": np.float32, "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16, "int64": np.int64, "int32": np.int32, "int16": np.int16,
    "int8": np.int8, "uint8": np.uint8, "bool": np.bool_,
}  # fmt: skip
_REOPEN_AFTER = 2**30  # bytes read


def open_directory(directory: pathlib.Path, stem: str = "") -> Source:
    """The weights of a model directory: safetensors or PyTorch's own files, whole or sharded.

    Args:
      stem: of the files' names; by default what transformers calls them.

    Raises:
      UserError: if there are none, or a file is missing, truncated or not what its name says.
    """
    names = (f"{stem or 'model'}.safetensors", f"{stem or 'pytorch_model'}.bin")
    for name, kind in zip(names, (SafetensorsSource, TorchSource)):
        index = directory / f"{name}.index.json"
        if (directory / name).is_file():  # where both are there transformers reads this one
            return kind(str(directory), [directory / name])
        if index.is_file():
            return kind(str(directory), _indexed(index))
    raise UserError(
        str(directory),
        "no weights",
        f"{' or '.join(names)}, or an index.json of their shards",
        "Give the directory that holds them.",
    )


def _indexed(index: pathlib.Path) -> list[pathlib.Path]:
    """The shards that an index names: files of its own folder, whatever it says."""
    table = read_object(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise UserError(str(index), "no weight_map", "an index of shards", "Fetch the file again.")
    places = list(table.values())
    if wrong := [p for p in places if not isinstance(p, str) or not _is_name(p)]:
        raise UserError(
            str(index), quoted(wrong[0]), "the name of a file beside it", "Fetch the file again."
        )
    names = sorted(set(places))
    files = [index.parent / n for n in names]
    if missing := [f.name for f in files if not f.is_file()]:
        raise UserError(
            str(index.parent),
            f"{len(missing)} of {len(names)} shards missing ({shown(', '.join(missing[:5]), 300)})",
            "every shard that the index names",
            "Fetch them.",
        )
    if outside := [file for file in files if not is_inside(file)]:
        raise UserError(
            str(outside[0]),
            f"a link to {shown(str(outside[0].resolve()))}",
            "a file of this folder",
            "Put the file itself there.",
        )
    return files


def _is_name(name: str) -> bool:
    """Whether it can name a file of a folder, and nothing else."""
    plain = not set(name) & {"/", "\\", "\0"} and name not in ("", ".", "..")
    return plain and len(name.encode("utf-8", "surrogatepass")) <= 255


def is_inside(file: pathlib.Path) -> bool:
    """Whether it is no link out of its folder, unless into the cache of Hugging Face's hub.

    There `models--A--B/snapshots/REVISION/NAME` links to `models--A--B/blobs/HASH`.
    """
    folder = file.parent.resolve()
    roots = [folder]
    if folder.parent.name == "snapshots":
        roots.append(folder.parent.parent / "blobs")
    return any(file.resolve().is_relative_to(root) for root in roots)


class SafetensorsSource:
    """Tensors of safetensors files."""

    def __init__(self, where: str, files: list[pathlib.Path]):
        self.where = where
        self.tensors: dict[str, TensorInfo] = {}
        self._file: dict[str, pathlib.Path] = {}
        for file in files:
            with _open_safetensors(file) as reader:
                for name in reader.keys():  # noqa: SIM118 (not a dict)
                    part = reader.get_slice(name)
                    dtype = _dtype(file, name, part.get_dtype(), _SAFETENSORS_DTYPES)
                    _add(self.tensors, file, name, TensorInfo(tuple(part.get_shape()), dtype))
                    self._file[name] = file
        self._open: tuple[pathlib.Path, safe_open] | None = None
        self._budget = 0

    def read(self, name: str) -> np.ndarray:
        """A copy of the tensor."""
        file = self._file[name]
        if self._open is None or self._open[0] != file or self._budget <= 0:
            self._open = None  # closed before the next is opened
            self._open, self._budget = (file, _open_safetensors(file)), _REOPEN_AFTER
        array = self._open[1].get_tensor(name)
        self._budget -= array.nbytes
        return array


def _open_safetensors(file: pathlib.Path) -> safe_open:
    try:
        return safe_open(file, framework="np")
    except (SafetensorError, OSError) as e:
        raise UserError(
            str(file),
            f"{shown(str(e))} (the file has {file.stat().st_size} bytes)",
            "a whole safetensors file",
            "Fetch or write the file again.",
        ) from e


class TorchSource:
    """Tensors of files that `torch.save` wrote. Only tensors are unpickled, and they are mapped.

    Args:
      key: where the file holds a dict of state dicts, the one to take.
    """

    def __init__(self, where: str, files: list[pathlib.Path], key: str | None = None):
        import torch  # where it is used: safetensors need no PyTorch

        self._torch = torch
        self.where = where
        self._key = key
        self.tensors: dict[str, TensorInfo] = {}
        self._file: dict[str, pathlib.Path] = {}
        for file in files:
            for name, tensor in self._load(file).items():
                dtype = _dtype(file, name, str(tensor.dtype).removeprefix("torch."), _TORCH_DTYPES)
                _add(self.tensors, file, name, TensorInfo(tuple(tensor.shape), dtype))
                self._file[name] = file
        self._open: tuple[pathlib.Path, dict] | None = None
        self._budget = 0

    def read(self, name: str) -> np.ndarray:
        """A copy of the tensor."""
        torch, file = self._torch, self._file[name]
        if self._open is None or self._open[0] != file or self._budget <= 0:
            self._open = None  # closed before the next is opened
            self._open, self._budget = (file, self._load(file)), _REOPEN_AFTER
        tensor = self._open[1][name].detach().contiguous()
        dtype = self.tensors[name].dtype
        if tensor.dtype == torch.bfloat16:
            tensor = tensor.view(torch.int16)
        array = tensor.numpy().view(dtype).copy()
        self._budget -= array.nbytes
        return array

    def _load(self, file: pathlib.Path) -> Mapping:
        torch = self._torch
        try:
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except Exception as e:  # torch raises RuntimeError, UnpicklingError, EOFError, ...
            raise UserError(
                str(file),
                f"{_why(e)} (the file has {file.stat().st_size} bytes)",
                "a whole file of torch.save (PyTorch 1.6 or later) with tensors only",
                "Fetch the file again, or save its state dict anew.",
            ) from e
        if self._key is not None:
            if not isinstance(content, Mapping) or self._key not in content:
                keys = sorted(map(str, content)) if isinstance(content, Mapping) else type(content)
                raise UserError(
                    str(file), shown(keys), f"a dict with {self._key!r}", "Give the right file."
                )
            content = content[self._key]
        if not isinstance(content, Mapping) or not all(
            isinstance(n, str) and isinstance(v, torch.Tensor) for n, v in content.items()
        ):
            raise UserError(
                str(file),
                "something else than named tensors",
                "a state dict",
                "Save model.state_dict() and import that.",
            )
        for name, tensor in content.items():
            if tensor.layout != torch.strided or tensor.device.type != "cpu":
                kind = f"{name} of layout {tensor.layout} on {tensor.device}"
                raise UserError(str(file), shown(kind), "dense tensors", "Convert it first.")
        return content


class Together:
    """The tensors of several sources, none of them twice."""

    def __init__(self, *sources: Source):
        self.where = sources[0].where
        self.tensors: dict[str, TensorInfo] = {}
        self._source: dict[str, Source] = {}
        for source in sources:
            for name, info in source.tensors.items():
                _add(self.tensors, pathlib.Path(source.where), name, info)
                self._source[name] = source

    def read(self, name: str) -> np.ndarray:
        """A copy of the tensor."""
        return self._source[name].read(name)


def _why(error: Exception) -> str:
    """What a failure to load says, without PyTorch's advice to run the code in the file."""
    text = str(error)
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in text:
        code = re.search(r"GLOBAL ([\w.]+)", text)
        return f"code ({code.group(1)})" if code else "something else than tensors"
    lines = text.splitlines()
    return shown(lines[0]) if lines else type(error).__name__


def _dtype(file: pathlib.Path, name: str, stored: str, known: dict) -> np.dtype:
    if stored not in known:
        raise UserError(
            str(file), f"{shown(name)} in {stored}", f"one of {sorted(known)}", "Convert it first."
        )
    return np.dtype(known[stored])


def _add(tensors: dict[str, TensorInfo], file: pathlib.Path, name: str, info: TensorInfo) -> None:
    if name in tensors:
        raise UserError(
            str(file),
            f"{shown(name)} once more",
            "each tensor in one shard",
            "Remove the stray file.",
        )
    tensors[name] = info

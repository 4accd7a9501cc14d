"""Parquet tables with pictures in them, as Hugging Face's datasets have.

A picture in a table can only be read with all those around it. So the rows are copied once, some at
a time, to where each can be read alone: text as JSON Lines, pictures one behind another.
"""

import bisect
import contextlib
import fcntl
import hashlib
import itertools
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from unijax.core import sums
from unijax.core.errors import UserError
from unijax.core.files import atomic_directory, unreadable, writable_directory
from unijax.core.paths import cache_dir
from unijax.core.telling import tell_once
from unijax.data.user import conversation, forms
from unijax.data.user.faults import Faults
from unijax.data.user.lines import Lines, pread
from unijax.data.user.picture import short
from unijax.data.user.record import KEYS, meant_by
from unijax.data.user.records import UserRecords
from unijax.data.user.shards import shards

_VERSION = 1  # of what is written
_ROWS = 32  # that are in memory together
_AT = "$at"  # in the place of a picture: where its bytes are
_READ = {*KEYS, *conversation.KEYS, "choices", "options", "answers"}

_CAPTIONS = {"caption", "captions", "text"}


def open_tables(path: Path, faults: Faults | None = None) -> UserRecords:
    """The rows of a table, or of all in a folder.

    Columns are what keys are in a JSONL line; others are left alone. A label of the kind ClassLabel
    is its name. Pictures are bytes, or `bytes` and `path` together.

    Args:
      path: a .parquet, or a folder with some.
      faults: how mistakes of single rows are taken.

    Raises:
      UserError: naming the file, and the row.
    """
    files = shards(path, ".parquet")
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    mark = hashlib.sha256(json.dumps([_VERSION, stats]).encode()).hexdigest()[:12]
    folder = cache_dir() / f"tables-{mark}"
    if (known := _read_counts(folder)) is None:
        _copy_once(files, path, folder)
        known = _read_counts(folder)
        assert known is not None
    counts, _ = known
    ends = list(itertools.accumulate(counts))

    def place(number: int, count: int) -> str:
        file = bisect.bisect_left(ends, number)
        return f"{files[file]}: row {number - (ends[file] - counts[file])}"

    change = _Pictures(folder / "pictures").put_in
    parent = path if path.is_dir() else path.parent
    return Lines(folder / "rows.jsonl", path, parent, place, change, True, faults)


class _Pictures:
    """Pictures one behind another in a file."""

    def __init__(self, path: Path):
        self._path, self._file = path, os.open(path, os.O_RDONLY)

    def __del__(self):
        if hasattr(self, "_file"):
            os.close(self._file)

    def put_in(self, value: Any) -> Any:
        """The value of a row, with what reads a picture wherever one belongs."""
        if isinstance(value, dict):
            if value.keys() == {_AT}:
                offset, size = map(int, value[_AT])
                return lambda: pread(self._file, size, offset, f"{self._path}: byte {offset}")
            return {key: self.put_in(inner) for key, inner in value.items()}
        return [self.put_in(inner) for inner in value] if isinstance(value, list) else value


def _read_counts(folder: Path) -> tuple[list[int], int] | None:
    """Rows by file, and bytes of pictures; None without a copy that is whole.

    Pictures are not summed up: each says itself where it is damaged.
    """
    try:
        counts, size = json.loads((folder / "counts.json").read_bytes())
        whole = (folder / "pictures").stat().st_size == size and sums.hold(folder)
    except (OSError, ValueError, TypeError):
        return None
    return (counts, size) if whole else None


def _copy_once(files: list[Path], path: Path, folder: Path) -> None:
    def fill() -> None:
        with atomic_directory(folder) as temporary:
            _copy_all(files, temporary)

    writable_directory(folder.parent)
    with _alone(folder.parent):
        made = sums.make_once(folder, lambda folder: _read_counts(folder) is not None, fill)
    if not made:  # another process was first
        return
    size = (folder / "pictures").stat().st_size
    line = f"{path}: {size:,} bytes of pictures copied to {folder}, which may be removed"
    tell_once(line, line)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Of the processes of a machine, one at a time."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some shares know no locks: then each does the work
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _copy_all(files: list[Path], folder: Path) -> None:
    with (folder / "pictures").open("wb") as pictures:
        with (folder / "rows.jsonl").open("w", encoding="utf-8") as rows:
            counts = [_copy(file, rows, pictures) for file in files]
        size = pictures.tell()
    (folder / "counts.json").write_text(json.dumps([counts, size]))
    sums.write(folder, leave="pictures")


def _copy(file: Path, rows: TextIO, pictures: BinaryIO) -> int:
    """Copies a table; the number of its rows."""
    try:
        table = pq.ParquetFile(file, buffer_size=2**20)
        columns, count = _columns(table.schema_arrow, file), 0
        with tqdm(total=table.metadata.num_rows, desc=f"copying {file.name}", unit="row",
                  leave=False, disable=None) as bar:  # fmt: skip
            for batch in table.iter_batches(_ROWS, columns=list(columns)):
                for row in _rows(batch, f"{file}: row ", count):
                    line = {}
                    for name, value in row.items():
                        key, names = columns[name]
                        value = value if names is None else _named(value, names)
                        line[key] = _plain(value, pictures)
                    rows.write(json.dumps(line, ensure_ascii=False) + "\n")
                    count += 1
                bar.update(batch.num_rows)
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise unreadable(str(file), error, "a Parquet table") from error
        raise UserError(
            str(file), f"{str(error)[:200]}", "a Parquet table", "Fetch the file again."
        ) from None
    return count


def _rows(batch: pa.RecordBatch, where: str, count: int) -> Iterator[dict]:
    for index in range(batch.num_rows):
        try:
            yield batch.slice(index, 1).to_pylist()[0]
        except ValueError as error:
            row = f"{where}{count + index + 1}"
            raise UserError(row, f"{error}", "text in UTF-8", "Repair it.") from None


def _columns(schema: pa.Schema, file: Path) -> dict[str, tuple[str, list[str] | None]]:
    """By the name of a column that is read: the key that it is, and the names of its labels."""
    twice = [name for name in schema.names if name in _READ and schema.names.count(name) > 1]
    if twice:
        found = f"two columns {twice[0]!r}"
        raise UserError(str(file), found, "different names", "Rename one of them.")
    labels = _labels(schema)
    talks = not set(schema.names).isdisjoint(conversation.LISTS)
    drawn = () if talks else forms.drawn_of(schema.names)
    columns = {n: (n, labels.get(n)) for n in schema.names if n in _READ or n in drawn}
    said = []
    if not drawn and not columns.keys() & {"image", "images"}:
        held = [field for field in schema if _holds_pictures(field.type)]
        if len(held) > 1:
            raise UserError(
                str(file),
                f"pictures in the columns {', '.join(field.name for field in held)}",
                "one column of pictures, 'image' or 'images'",
                "Rename the one that is meant.",
            )
        for field in held:
            columns[field.name] = ("images" if _is_list(field.type) else "image", None)
            said.append(f"'{field.name}' is the image")
    if "txt" in schema.names and not columns.keys() & _CAPTIONS:  # of what was WebDataset once
        columns["txt"] = ("caption", None)
        said.append("'txt' is the caption")
    unread = [name for name in schema.names if name not in columns]
    for name in unread:
        near = meant_by(name, schema.names)
        if near:
            found, expected = f"the column {short(name)}", f"{near!r}, or another name"
            raise UserError(str(file), found, expected, f"Did you mean {near!r}?")
    said += [f"not read: {', '.join(unread)}"] if unread else []
    if said:
        line = f"{file}: columns of a Parquet table; {'; '.join(said)}"
        tell_once(line, line)
    return columns


def _labels(schema: pa.Schema) -> dict[str, list[str]]:
    """Names of the classes that a column has the numbers of, by Hugging Face's own word."""
    try:
        told = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: list(feature["names"])
            for name, feature in told.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}


def _is_list(kind: pa.DataType) -> bool:
    lists = pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list
    return any(is_one(kind) for is_one in lists)


def _holds_pictures(kind: pa.DataType) -> bool:
    if _is_list(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" for field in kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _named(value: Any, names: list[str]) -> str | None:
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None


def _plain(value: Any, pictures: BinaryIO) -> Any:
    """A value as JSON has it, its pictures written, without nulls in objects."""
    match value:
        case b"":
            return None
        case bytes():
            place = [pictures.tell(), len(value)]
            pictures.write(value)
            return {_AT: place}
        case {"bytes": bytes(content)}:
            return _plain(content, pictures)
        case dict():
            # A key that the table itself has by the name of the mark would be taken for it.
            keys = [key for key, v in value.items() if v is not None and key != _AT]
            return {key: _plain(value[key], pictures) for key in keys} or None
        case [*items] if items and all(isinstance(item, tuple) for item in items):  # of a map
            return _plain(dict(items), pictures)
        case list() | tuple():
            return [_plain(inner, pictures) for inner in value]
        case None | bool() | str():
            return value
        case float() if not math.isfinite(value):
            return None
    return str(value)

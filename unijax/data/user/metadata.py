"""Rows of a folder's metadata: JSON Lines, or a table of characters as spreadsheets write it."""

import collections
import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from unijax.core.errors import UserError
from unijax.core.files import open_plain
from unijax.data.user import text

_SEPARATORS = (",", ";", "\t", "|")  # spreadsheets take the semicolon where the comma is decimal
# How tables call the path of a picture, beside `image`.
IMAGE_NAMES = ("file_name", "filename", "filepath", "file_path", "image_path", "image_file", "path")
_NAMED = re.compile(r"\s*sep=(.)\s*", re.IGNORECASE)  # a first line by which they say which


def rows_of(path: Path) -> Iterator[tuple[str, dict]]:
    """(file and line, row) of every row that is not empty.

    Raises:
      UserError: naming file and line.
    """
    return _jsonl(path) if path.suffix.lower() == ".jsonl" else _csv(path)


def _jsonl(path: Path) -> Iterator[tuple[str, dict]]:
    with text.reading(path, "a JSONL file"), open_plain(path) as file:
        for number, _, line in text.lines_of(file, path):
            yield f"{path}:{number}", text.parse(line, f"{path}:{number}")


def _csv(path: Path) -> Iterator[tuple[str, dict]]:
    content = text.read_text(path)
    first, _, rest = content.partition("\n")
    named = _NAMED.fullmatch(first)
    if named:
        content = f"\n{rest}"  # lines keep their numbers
    marks = _SEPARATORS if named is None else (named[1],)
    first = first if named is None else rest.partition("\n")[0]
    separator = next((s for s in marks if _names_a_file(first, s)), ",")
    rows = _rows(content, separator, path)[0 if named is None else 1 :]
    if not rows:
        return
    names = [name.strip() for name in rows[0][1]]
    if len(set(names)) < len(names):
        twice = next(name for name, count in collections.Counter(names).items() if count > 1)
        raise UserError(f"{path}:1", f"two columns {twice!r}", "a name for each", "Rename one.")
    for number, row in rows[1:]:
        while len(row) > len(names) and not row[-1].strip():
            row.pop()
        if not any(cell.strip() for cell in row):
            continue
        where = f"{path}:{number}"
        if len(row) != len(names):
            raise UserError(
                where,
                "more or fewer fields than the first line names",
                f"{', '.join(names)}",
                "Repair the line; put text with commas in quotes.",
            )
        yield where, {name: cell for name, cell in zip(names, row) if cell.strip()}


def picture_key(name: str) -> str:
    """The key of a line that a column of the hub's metadata with paths of pictures is, or ""."""
    known = {"file_name": "image", "file_names": "images"}
    if name in known:
        return known[name]
    key, found, plural = name.rpartition("_file_name")
    return key + plural if found and plural in ("", "s") else ""


def _names_a_file(line: str, separator: str) -> bool:
    names = (name.strip().strip('"') for name in line.split(separator))
    words = filter(str.isidentifier, names)  # or the whole line may be one
    return any(name in ("image", *IMAGE_NAMES) or picture_key(name) for name in words)


def _rows(content: str, separator: str, path: Path) -> list[tuple[int, list[str]]]:
    """Rows, each with the number of the line that it begins in."""
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=separator, strict=True)
    rows, number = [], 1
    limit = csv.field_size_limit(text.MAX_LINE)
    try:
        for row in reader:
            rows.append((number, row))
            number = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{number}", f"{error}", "CSV", "Repair the line.") from None
    finally:
        csv.field_size_limit(limit)
    return rows

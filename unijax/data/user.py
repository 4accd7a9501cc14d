"""A user's own data, without code: a JSONL file, or a folder of pictures.

Both are read whole and checked when they are opened, so that a mistake in the last line is told
before training begins; pictures are found then, and decoded when they are drawn.
"""

import csv
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from unijax.core.errors import UserError
from unijax.data.user_record import check_task, picture, to_record

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
METADATA = ("metadata.jsonl", "metadata.csv")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # as JSON writes it, alone or one of a pair


class Jsonl(Sequence):
    """Random access to the records of a JSONL file; only the places of its lines are held."""

    def __init__(self, path: Path, task: str | None):
        self._path = path
        try:
            self._file = os.open(path, os.O_RDONLY)
            with path.open("rb") as file:
                places = list(_check_lines(file, path, task))
        except OSError as error:
            raise UserError(
                str(path), f"{error.strerror or error}", "a JSONL file", "Correct the path."
            ) from None
        if not places:
            raise UserError(str(path), "no lines", "a record on each line", "Fill the file.")
        self._places = np.array(places, np.int64)  # number, offset and length of each line

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict:
        number, offset, length = map(int, self._places[index])
        line = os.pread(self._file, length, offset)
        return to_record(
            _parse(line, self._path, number), f"{self._path}:{number}", self._path.parent
        )

    def __del__(self):
        if hasattr(self, "_file"):
            os.close(self._file)


def open_jsonl(path: str | Path, task: str | None = None) -> Jsonl:
    """Opens a JSONL file, as `data.user_record.to_record` describes its lines.

    Args:
      path: the file; pictures are relative to its folder.
      task: that every line must be fit for.

    Raises:
      UserError: naming the file and the line.
    """
    return Jsonl(Path(path), task)


def open_mixed(path: str | Path) -> Sequence[dict]:
    """Opens a JSONL file or a folder whose records need not all serve one task."""
    return open_folder(path) if Path(path).is_dir() else open_jsonl(path)


def open_folder(path: str | Path, task: str | None = None) -> list[dict]:
    """Opens a folder of pictures. What is known of a picture comes from the first of these found:

    * `metadata.jsonl` or `metadata.csv` in the folder, with the path as `file_name` and the keys of
      a JSONL line (`text` too, for a caption), a row for every picture;
    * a text file of the same name beside every picture, a caption on each line;
    * the name of the folder that the picture is in, as its category, label and caption.

    Raises:
      UserError: for a picture without any, and for a file that is none of these.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(str(folder), "no such folder", "a folder of pictures", "Correct the path.")
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and not any(p.startswith(".") for p in file.relative_to(folder).parts)
    )
    pictures = [file for file in files if file.suffix.lower() in PICTURES]
    metadata = [folder / name for name in METADATA if (folder / name).is_file()]
    texts = {file for file in files if file.suffix == ".txt"}
    strange = [f for f in files if f not in set(pictures) and f not in texts and f not in metadata]
    if strange:
        raise UserError(
            str(strange[0]),
            "a file that is neither a picture nor known text",
            f"pictures ({', '.join(sorted(PICTURES))}), .txt, or {' or '.join(METADATA)}",
            "Move it out of the folder.",
        )
    if not pictures:
        raise UserError(str(folder), "no pictures", "at least one", "Correct the path.")
    if metadata:
        records = _from_metadata(metadata, folder, pictures, texts)
    elif texts:
        records = _from_texts(folder, pictures, texts)
    else:
        records = [_from_folder_name(folder, file) for file in pictures]
    if task is not None:
        for record in records:
            check_task(record, task)
    return records


def _check_lines(file, path: Path, task: str | None) -> Iterator[tuple[int, int, int]]:
    """(number, offset, length) of every line that holds something, each checked."""
    offset = 0
    for number, line in enumerate(file, start=1):
        if line.strip():
            where = f"{path}:{number}"
            record = to_record(_parse(line, path, number), where, path.parent)
            if task is not None:
                check_task(record, task)
            yield number, offset, len(line)
        offset += len(line)


def _parse(line: bytes, path: Path, number: int) -> dict:
    where = f"{path}:{number}"
    try:
        value = json.loads(line)
        if _SURROGATE.search(line):
            value = _without_lone_surrogates(value)
    except RecursionError:
        raise UserError(
            where, "lists or objects nested too deep", "an object as documented", "Repair the line."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(where, f"{error}", "a line of JSON in UTF-8", "Repair the line.") from None
    if not isinstance(value, dict):
        raise UserError(where, f"a {type(value).__name__}", "an object, {...}", "Repair the line.")
    return value


def _without_lone_surrogates(value: dict) -> dict:
    """U+FFFD for each: scraped text has such halves of characters, and no tokenizer reads them."""
    text = json.dumps(value, ensure_ascii=False)
    return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def _from_metadata(
    metadata: list[Path], folder: Path, pictures: list[Path], texts: set[Path]
) -> list[dict]:
    if len(metadata) > 1 or texts:
        other = metadata[1] if len(metadata) > 1 else min(texts)
        raise UserError(
            str(other),
            f"captions there and in {metadata[0].name}",
            "captions in one place",
            "Keep one of them.",
        )
    rows = _jsonl_rows if metadata[0].suffix == ".jsonl" else _csv_rows
    records, named = [], set()
    for where, row in rows(metadata[0]):
        if "file_name" not in row:
            raise UserError(where, "no file_name", "the path of a picture", "Add 'file_name'.")
        row = {("caption" if key == "text" else key): value for key, value in row.items()}
        row["image"] = row.pop("file_name")
        records.append(to_record(row, where, folder))
        named.add(folder / row["image"])
    missing = [file for file in pictures if file not in named]
    if missing:
        raise UserError(
            str(missing[0]),
            f"a picture that {metadata[0].name} does not name",
            "a row for every picture",
            "Add a row, or move the picture out.",
        )
    return records


def _jsonl_rows(path: Path) -> Iterator[tuple[str, dict]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path}:{number}", _parse(line, path, number)


def _csv_rows(path: Path) -> Iterator[tuple[str, dict]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if None in row or None in row.values():
                    raise UserError(
                        where,
                        "more or fewer fields than the first line names",
                        f"{', '.join(reader.fieldnames)}",
                        "Repair the line; put text with commas in quotes.",
                    )
                yield where, {key: value for key, value in row.items() if value}
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(str(path), f"{error}", "CSV in UTF-8", "Repair the file.") from None


def _from_texts(folder: Path, pictures: list[Path], texts: set[Path]) -> list[dict]:
    records = []
    for file in pictures:
        text = file.with_suffix(".txt")
        if text not in texts:
            raise UserError(
                str(file),
                f"no {text.name} beside it",
                "a text for every picture, as others have one",
                "Write the caption into it, or move the picture out.",
            )
        captions = [line.strip() for line in _read_text(text).splitlines() if line.strip()]
        if not captions:
            raise UserError(str(text), "no text", "a caption on each line", "Write one.")
        records.append(_captioned(folder, file, captions=captions))
    alone = texts - {file.with_suffix(".txt") for file in pictures}
    if alone:
        raise UserError(
            str(min(alone)), "a text without a picture", "one of the same name", "Move it out."
        )
    return records


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(str(path), f"{error}", "text in UTF-8", "Convert the file.") from None


def _from_folder_name(folder: Path, file: Path) -> dict:
    if file.parent == folder:
        raise UserError(
            str(file),
            "a picture with no caption and no category",
            f"a folder for each category, a .txt beside each picture, or {' or '.join(METADATA)}",
            "Move the picture into a folder named for its category, or caption it.",
        )
    name = file.parent.name.replace("_", " ").strip()
    return _captioned(folder, file, captions=[name], label=name, category=name)


def _captioned(folder: Path, file: Path, **fields) -> dict:
    where, name = str(file), str(file.relative_to(folder))
    return {"id": name, "where": where, "image": picture(name, where, folder), **fields}

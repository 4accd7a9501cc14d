"""A folder of pictures, with what is known of them beside them or in one file of metadata."""

import os
import posixpath
from collections.abc import Iterator
from pathlib import Path

from unijax.core.errors import UserError
from unijax.core.processes import tell_once
from unijax.data.user import text
from unijax.data.user.metadata import rows_of
from unijax.data.user.notes import Notes
from unijax.data.user.record import to_record
from unijax.data.user.records import FactsOf, UserRecords

PICTURES = {
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".gif", ".bmp", ".dib",
    ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2",
}  # fmt: skip
METADATA = ("metadata.jsonl", "metadata.csv")
# Pictures, or what may hold some, that are not read: none is left out in silence.
_STRANGERS = {
    ".heic", ".heif", ".jxl", ".svg", ".psd", ".tga", ".exr", ".dng", ".cr2", ".nef", ".pdf",
    ".eps", ".mp4", ".mov", ".webm", ".zip", ".tar", ".tgz",
}  # fmt: skip
# Where captions may stand under a name that nobody looks for.
_TABLES = {".csv", ".tsv", ".json", ".jsonl", ".xlsx", ".parquet"}
_OF_SYSTEMS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}


class Folder(UserRecords):
    """What is known of a picture comes from the first of these that is found:

    * `metadata.jsonl` or `metadata.csv` in the folder, with the path as `file_name` and the keys of
      a JSONL line (`text` too, for a caption), a row for every picture;
    * a text file of the same name beside every picture, a caption on each line;
    * the name of the folder that the picture is in, as its category, label and caption.

    Args:
      folder: with pictures in it, or in folders in it. Files of other kinds are left alone.

    Raises:
      UserError: for a picture without any, or what looks like one and is not read.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        names = files_in(folder)
        if not any(_suffix(name) in PICTURES for name in names):
            raise UserError(str(folder), "no pictures", "at least one", "Correct the path.")
        notes, facts = Notes(), FactsOf()
        self._rows = []
        for where, line in _rows(folder, names, notes):
            facts.add(to_record(line, where, folder, notes, loose=True))
            self._rows.append((where, line))
        self.facts = facts.done()
        said = notes.line(folder, len(self._rows))
        if said:
            tell_once(said, said)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict:
        where, line = self._rows[index]
        return to_record(line, where, self._folder, Notes(), loose=True)


def files_in(folder: Path) -> list[str]:
    """The files of a folder and of those in it, relative to it, in order, hidden ones left out.

    Raises:
      UserError: for what is no folder, or cannot be looked into.
    """
    names, todo, seen = [], [""], set()
    while todo:
        inside = todo.pop()
        try:
            found = os.stat(folder / inside)
            if (found.st_dev, found.st_ino) in seen:  # links may lead in a circle
                continue
            seen.add((found.st_dev, found.st_ino))
            with os.scandir(folder / inside) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    name = posixpath.join(inside, entry.name)
                    if entry.is_dir():
                        todo.append(name)
                    elif entry.is_file() or entry.is_symlink():
                        names.append(name)
        except OSError as error:
            missing = isinstance(error, FileNotFoundError | NotADirectoryError)
            raise UserError(
                str(folder / inside),
                "no such folder" if missing else f"{error.strerror}",
                "a folder of pictures",
                "Correct the path.",
            ) from None
    return sorted(names, key=lambda name: name.split("/"))


def _rows(folder: Path, names: list[str], notes: Notes) -> Iterator[tuple[str, dict]]:
    """Place and line of every record."""
    pictures = [name for name in names if _suffix(name) in PICTURES]
    metadata = [name for known in METADATA for name in names if name.lower() == known]
    stems = {_stem(name) for name in pictures}
    texts = _texts(folder, names)
    named = stems & texts.keys()
    if metadata and (len(metadata) > 1 or named):
        other = metadata[1] if len(metadata) > 1 else min(texts[stem] for stem in named)
        raise UserError(
            str(folder / other),
            f"captions there and in {metadata[0]}",
            "captions in one place",
            "Keep one of them.",
        )
    used = {*pictures, *metadata, *(texts.values() if named else ())}
    others = [name for name in names if name not in used]
    _check_others(folder, others, bool(metadata or named), notes)
    if metadata:
        return _from_metadata(folder, metadata[0], pictures)
    if named:
        return _from_texts(folder, pictures, texts)
    return (_from_folder_name(folder, name) for name in pictures)


def _suffix(name: str) -> str:
    return posixpath.splitext(name)[1].lower()


def _stem(name: str) -> str:
    return posixpath.splitext(name)[0]


def _texts(folder: Path, names: list[str]) -> dict[str, str]:
    """Text files, by their names without the end."""
    texts: dict[str, str] = {}
    for name in names:
        if _suffix(name) == ".txt" and texts.setdefault(_stem(name), name) != name:
            other = texts[_stem(name)]
            raise UserError(
                str(folder / name), f"captions there and in {other}", "one of them", "Join them."
            )
    return texts


def _check_others(folder: Path, others: list[str], captioned: bool, notes: Notes) -> None:
    """Says what is left alone; raises a UserError for what nobody leaves out knowingly."""
    for name in others:
        base, suffix = posixpath.basename(name).lower(), _suffix(name)
        if base in _OF_SYSTEMS:
            continue
        if suffix in _STRANGERS:
            raise UserError(
                str(folder / name),
                f"a file of a kind that is not read ({suffix})",
                f"pictures ({', '.join(sorted(PICTURES))})",
                "Convert it, or move it out of the folder.",
            )
        table = suffix in _TABLES and suffix != ".json"
        if base in METADATA or (table and not captioned):
            raise UserError(
                str(folder / name),
                "a table that is not read",
                f"captions in {' or '.join(METADATA)}, in the folder that is named",
                "Rename it, name the folder that it is in, or move it out of the folder.",
            )
        notes.unread[f"files *{suffix}" if suffix else base] += 1


def _from_metadata(folder: Path, file: str, pictures: list[str]) -> Iterator[tuple[str, dict]]:
    named = set()
    for where, row in rows_of(folder / file):
        if "file_name" not in row:
            raise UserError(where, "no file_name", "the path of a picture", "Add 'file_name'.")
        row = {("caption" if key == "text" else key): value for key, value in row.items()}
        row["image"] = row.pop("file_name")
        for path in {str(row["image"]), str(row["image"]).replace("\\", "/")}:
            named.add(os.path.relpath(folder / path, folder))
        yield where, row
    missing = [name for name in pictures if name not in named]
    if missing:
        raise UserError(
            str(folder / missing[0]),
            f"a picture that {file} does not name",
            "a row for every picture",
            "Add a row, or move the picture out.",
        )


def _from_texts(
    folder: Path, pictures: list[str], texts: dict[str, str]
) -> Iterator[tuple[str, dict]]:
    for name in pictures:
        beside = texts.get(_stem(name))
        if beside is None:
            raise UserError(
                str(folder / name),
                f"no {posixpath.basename(_stem(name))}.txt beside it",
                "a text for every picture, as others have one",
                "Write the caption into it, or move the picture out.",
            )
        captions = text.text_lines(folder / beside)
        if not captions:
            raise UserError(str(folder / beside), "no text", "a caption on each line", "Write one.")
        yield _captioned(folder, name, captions=captions)
    alone = texts.keys() - {_stem(name) for name in pictures}
    if alone:
        raise UserError(
            str(folder / min(texts[stem] for stem in alone)),
            "a text without a picture",
            "one of the same name",
            "Move it out.",
        )


def _from_folder_name(folder: Path, name: str) -> tuple[str, dict]:
    inside = posixpath.basename(posixpath.dirname(name))
    if not inside:
        raise UserError(
            str(folder / name),
            "a picture with no caption and no category",
            f"a folder for each category, a .txt beside each picture, or {' or '.join(METADATA)}",
            "Move the picture into a folder named for its category, or caption it; where a file of "
            "JSON names the pictures, give that file.",
        )
    category = inside.replace("_", " ").strip()
    if not _is_unicode(category):
        raise UserError(
            str(folder / name), "a folder whose name is not UTF-8", "one that is", "Rename it."
        )
    return _captioned(folder, name, captions=[category], label=category, category=category)


def _captioned(folder: Path, name: str, **fields) -> tuple[str, dict]:
    # A name of other bytes than UTF-8 still names its file, but identifiers are hashed.
    readable = name if _is_unicode(name) else name.encode(errors="backslashreplace").decode()
    return str(folder / name), {"id": readable, "image": name, **fields}


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True

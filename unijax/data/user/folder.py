"""A folder of pictures, with what is known of them beside them or in one file of metadata."""

import os
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from unijax.core.errors import UserError
from unijax.data.user import text
from unijax.data.user.conversation import listed
from unijax.data.user.faults import Faults
from unijax.data.user.held import Held
from unijax.data.user.metadata import picture_key, rows_of
from unijax.data.user.notes import Notes
from unijax.data.user.picture import PICTURES, STRANGERS

METADATA = ("metadata.jsonl", "metadata.csv")
_CAPTIONS = (".txt", ".caption")  # beside a picture
# Where captions may stand under a name that nobody looks for.
_TABLES = {".csv", ".tsv", ".json", ".jsonl", ".xls", ".xlsx", ".parquet"}
# Folders of a data set whose pictures are not for training, and those beside them.
HELD_OUT = "test|testing|val|valid|validation|dev|eval|evaluation"
TRAINED_ON = "train|training"
# Of what is no folder of pictures: what to do with it.
INSTEAD = {
    ".jsonl": "Name the file itself.", ".json": "Name the file itself.",
    ".arrow": "Save it as Parquet: dataset.to_parquet(...).", ".gz": "Unpack it.",
    ".zip": "Unpack it.", ".heic": "Convert the pictures.",
}  # fmt: skip
_BOX = re.compile(r"\d+( +-?[\d.]+){4,}")  # of YOLO: a class and where it is
# What is said of a data set, not of a picture in it.
_ABOUT = {"readme", "license", "licence", "copying", "notice", "credits", "changelog"}
# Names of folders that say of no picture what it shows.
_NO_CATEGORY = {
    "images", "image", "imgs", "img", "pictures", "picture", "pics", "photos", "jpg", "jpeg", "png",
    "data", "files",
}  # fmt: skip
_OF_SYSTEMS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}


class Folder(Held):
    """What is known of a picture comes from the first of these that is found:

    * `metadata.jsonl` or `metadata.csv` in the folder, with the path as `file_name` and the keys of
      a JSONL line (`text` too, for a caption), a row for every picture; as the hub has it,
      `file_names` are `images`, and `KEY_file_name` is the picture KEY;
    * a text file of the same name beside every picture (`.txt` or `.caption`), a caption on each
      line;
    * the name of the folder that the picture is in, as its category, label and caption.

    Args:
      folder: with pictures in it, or in folders in it. Files of other kinds are left alone, and so
        is what lies in a folder in it that is named for what is held out (`test`, `val`, ...).
      faults: how mistakes of single pictures are taken.

    Raises:
      UserError: for a picture without any, or what looks like one and is not read.
    """

    def __init__(self, folder: Path, faults: Faults | None = None):
        faults = Faults() if faults is None else faults
        names, held = _apart(files_in(folder))
        if not any(_suffix(name) in PICTURES for name in names):
            ends = {_suffix(name) for name in names} & INSTEAD.keys()
            found = f"no pictures, but *{min(ends)}" if ends else "no pictures"
            fix = INSTEAD[min(ends)] if ends else "Correct the path."
            raise UserError(str(folder), found, "at least one", fix)
        notes = Notes()
        shown = (inside for name, inside in held.items() if _suffix(name) in PICTURES)
        for inside, count in sorted(Counter(shown).items()):
            notes.said[f"pictures in {inside}/ are held out: give it as --held-out"] += count
        super().__init__(
            folder, _rows(folder, names, held, notes, faults), folder, True, faults, notes
        )


def _apart(names: list[str]) -> tuple[list[str], dict[str, str]]:
    """The files to train on; and those that are held out, with the folder that says so.

    At the top a folder's name says it, deeper in only beside a folder to train on: categories may
    be called so.
    """
    folders = {posixpath.dirname(name) for name in names}
    every = folders | {part for folder in folders for part in _above(folder)}
    beside = {posixpath.dirname(f) for f in every if _is_called(f, TRAINED_ON)}
    out = {f for f in every if _is_called(f, HELD_OUT) and posixpath.dirname(f) in {"", *beside}}
    inside = {f: next((part for part in (*_above(f), f) if part in out), "") for f in folders}
    held = {name: said for name in names if (said := inside[posixpath.dirname(name)])}
    rest = [name for name in names if name not in held]
    if not any(_suffix(name) in PICTURES for name in rest):
        return names, {}  # nothing else is there: categories that are called so
    return rest, held


def _above(folder: str) -> list[str]:
    """The folders that a folder is in, the outermost first, without the one that they all are."""
    parts = folder.split("/")
    return ["/".join(parts[:i]) for i in range(1, len(parts))]


def _is_called(folder: str, names: str) -> bool:
    """Whether it has one of the names, with a number behind it or not."""
    return bool(re.fullmatch(rf"({names})[-_]?\d*", posixpath.basename(folder), re.IGNORECASE))


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


Rows = Iterator[tuple[str, dict | UserError]]


def _rows(
    folder: Path, names: list[str], held: Collection[str], notes: Notes, faults: Faults
) -> Rows:
    """Place and line of every record, or what is wrong with it."""
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
    _check_others(folder, others, bool(metadata or named), notes, faults)
    if metadata:
        return _from_metadata(folder, metadata[0], pictures, held)
    if named:
        return _from_texts(folder, pictures, texts)
    return (_from_folder_name(folder, name) for name in pictures)


def _is_about(name: str) -> bool:
    return _stem(posixpath.basename(name)).lower() in _ABOUT


def _suffix(name: str) -> str:
    return posixpath.splitext(name)[1].lower()


def _stem(name: str) -> str:
    return posixpath.splitext(name)[0]


def _texts(folder: Path, names: list[str]) -> dict[str, str]:
    """Text files, by their names without the end."""
    texts: dict[str, str] = {}
    for name in names:
        if _suffix(name) in _CAPTIONS and texts.setdefault(_stem(name), name) != name:
            other = texts[_stem(name)]
            raise UserError(
                str(folder / name), f"captions there and in {other}", "one of them", "Join them."
            )
    return texts


def _check_others(
    folder: Path, others: list[str], captioned: bool, notes: Notes, faults: Faults
) -> None:
    """Says what is left alone; raises a UserError for what nobody leaves out knowingly."""
    for name in others:
        base, suffix = posixpath.basename(name).lower(), _suffix(name)
        if base in _OF_SYSTEMS:
            continue
        where = str(folder / name)
        if faults.leaves_out(where):
            continue
        if suffix in STRANGERS:
            found = f"a file of a kind that is not read ({suffix})"
            expected = f"pictures ({', '.join(sorted(PICTURES))})"
            fix = "Convert it, or move it out of the folder."
            faults.tell(where, UserError(where, found, expected, fix))
            continue
        table = suffix in _TABLES and suffix != ".json"
        if base in METADATA or (table and not captioned):
            raise UserError(
                str(folder / name),
                "a table that is not read",
                f"captions in {' or '.join(METADATA)}, in the folder that is named",
                "Rename it, name the folder that it is in, or move it out of the folder.",
            )
        notes.unread[f"files *{suffix}" if suffix else base] += 1


def _from_metadata(folder: Path, file: str, pictures: list[str], held: Collection[str]) -> Rows:
    named, held = set(), {_accents(name) for name in held}
    for where, row in rows_of(folder / file):
        of_pictures = [key for key in row if picture_key(key)]
        if not of_pictures:
            expected, fix = "the path of a picture", "Add 'file_name'."
            yield where, UserError(where, "no file_name", expected, fix)
            continue
        values = [str(path) for key in of_pictures for path in listed(row[key])]
        paths = {path for value in values for path in (value, value.replace("\\", "/"))}
        here = {_accents(os.path.relpath(folder / path, folder)) for path in paths}
        if here & held:
            continue
        named |= here
        if "file_name" in row:
            row = {("caption" if key == "text" else key): value for key, value in row.items()}
        yield where, {picture_key(key) or key: value for key, value in row.items()}
    for name in pictures:
        if _accents(name) not in named:
            where, found = str(folder / name), f"a picture that {file} does not name"
            fix = "Add a row, or move the picture out."
            yield where, UserError(where, found, "a row for every picture", fix)


def _accents(name: str) -> str:
    """As `picture` finds a file whichever way its name spells them."""
    return unicodedata.normalize("NFC", name)


def _from_texts(folder: Path, pictures: list[str], texts: dict[str, str]) -> Rows:
    for name in pictures:
        beside, where = texts.get(_stem(name)), str(folder / name)
        if beside is None:
            found = f"no {posixpath.basename(_stem(name))}.txt beside it"
            expected = "a text for every picture, as others have one"
            fix = "Write the caption into it, or move the picture out."
            yield where, UserError(where, found, expected, fix)
            continue
        try:
            captions = text.text_lines(folder / beside)
        except UserError as error:
            yield where, error
            continue
        if captions and all(map(_BOX.fullmatch, captions)):
            expected, fix = "captions", "Caption the pictures, or move the boxes out."
            yield where, UserError(str(folder / beside), "boxes of objects", expected, fix)
        elif captions:
            yield _captioned(folder, name, captions=captions)
        else:
            beside = str(folder / beside)
            yield where, UserError(beside, "no text", "a caption on each line", "Write one.")
    alone = texts.keys() - {_stem(name) for name in pictures}
    for name in sorted(texts[stem] for stem in alone if not _is_about(texts[stem])):
        where = str(folder / name)
        found, expected = "a text without a picture", "one of the same name"
        yield where, UserError(where, found, expected, "Move it out.")


def _from_folder_name(folder: Path, name: str) -> tuple[str, dict | UserError]:
    inside, where = posixpath.basename(posixpath.dirname(name)), str(folder / name)
    if not inside or inside.lower() in _NO_CATEGORY or _is_called(inside, TRAINED_ON):
        return where, UserError(
            where,
            "a picture with no caption and no category",
            f"a folder for each category, a .txt beside each picture, or {' or '.join(METADATA)}",
            "Move the picture into a folder named for its category, or caption it; where a file of "
            "JSON names the pictures, give that file.",
        )
    category = inside.replace("_", " ").strip()
    if not _is_unicode(category):
        found = "a folder whose name is not UTF-8"
        return where, UserError(where, found, "one that is", "Rename it.")
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

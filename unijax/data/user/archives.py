"""Archives in the form of WebDataset: files of one name, but for the end, are one sample.

An archive is read where it lies: its table of contents is made when it is opened.
"""

import posixpath
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from unijax.core.errors import UserError
from unijax.core.files import patiently, readable, unreadable
from unijax.core.telling import tell_once
from unijax.data.user import conversation, forms, text
from unijax.data.user.faults import Faults
from unijax.data.user.notes import Notes
from unijax.data.user.picture import PICTURES, STRANGERS, Picture, short
from unijax.data.user.record import to_record
from unijax.data.user.records import FactsOf, UserRecords
from unijax.data.user.shards import shards

# Ends of names, and the key of a line that their text is.
_TEXTS = {"txt": "caption", "text": "caption", "caption": "caption", "cls": "label"}
_JSON = "json"


class Archives(UserRecords):
    """The samples of an archive, or of all in a folder.

    A sample's `.txt` is the caption of its picture, its `.cls` the label, its `.json` an object
    with the keys of a JSONL line, whose other keys are left alone. Pictures of a conversation are
    those of its sample.

    Args:
      path: a .tar, or a folder with some.
      faults: how mistakes of single samples are taken.

    Raises:
      UserError: naming the archive and the sample.
    """

    def __init__(self, path: Path, faults: Faults | None = None):
        faults = Faults() if faults is None else faults
        notes, facts = Notes(), FactsOf()
        self._files = shards(path, ".tar")
        self._keys: list[str] = []
        ends: dict[str, int] = {}  # of names, and their numbers
        file_of, members, first = [], [], [0]
        for number, file in enumerate(self._files):
            of_file: set[str] = set()
            for key, found in _samples(file):
                if key in of_file:
                    raise UserError(
                        f"{file}: {key}", "files of the sample in two places",
                        "all files of a sample one behind another",
                        "Pack the archive anew: tar --sort=name -cf ...",
                    )  # fmt: skip
                of_file.add(key)
                self._keys.append(key)
                file_of.append(number)
                for end, (offset, size) in found.items():
                    members.append((ends.setdefault(end, len(ends)), offset, size))
                first.append(len(members))
        if not self._keys:
            raise UserError(str(path), "no samples", "at least one", "Correct the path.")
        self._ends = [*ends]
        self._file_of = np.array(file_of, np.int32)
        self._members = np.array(members, np.int64)  # end, offset and size of each
        self._first = np.array(first, np.int64)
        good = []
        for index in range(len(self._keys)):
            if faults.leaves_out(where := self._where(index)):
                continue
            try:
                facts.add(self._record(index, notes))
                good.append(index)
            except UserError as error:
                faults.tell(where, error)
        self._good = np.array(good, np.int64)
        self.facts = facts.done()
        notes.forms["WebDataset"] += len(self)
        line = notes.line(path, len(self))
        tell_once(line, line)

    def __len__(self) -> int:
        return len(self._good)

    def __getitem__(self, index: int) -> dict:
        return self._record(int(self._good[index]), Notes())

    def _where(self, index: int) -> str:
        return f"{self._files[self._file_of[index]]}: {self._keys[index]}"

    def _record(self, index: int, notes: Notes) -> dict:
        file, key = self._files[self._file_of[index]], self._keys[index]
        where = self._where(index)
        members = self._members[self._first[index] : self._first[index + 1]]
        pictures: dict[str, Picture] = {}
        line: dict[str, Any] = {}
        said: dict[str, Any] = {}
        strange: set[str] = set()
        for number, offset, size in members.tolist():
            end = self._ends[number]
            if _is_picture(end):
                pictures[end] = _reader(file, offset, size, where)
            elif end == _JSON:
                line = text.parse(_read(file, offset, size, where), f"{where}.{end}")
            elif end in _TEXTS:
                content = text.decoded(_read(file, offset, size, where), f"{where}.{end}").strip()
                said |= {_TEXTS[end]: content} if content else {}
            else:
                strange |= {f".{end.rpartition('.')[2]}"} & STRANGERS
                notes.unread[f"*.{end}"] += 1
        if strange and not pictures:
            raise UserError(
                where, f"a picture of a kind that is not read ({min(strange)})",
                f"one of {', '.join(sorted(PICTURES))}", "Convert it, or take the sample out.",
            )  # fmt: skip
        if said and not pictures:
            notes.said["samples without a picture are texts"] += 1
        line = _together(line, said, pictures, key, where)
        return to_record(line, where, file.parent, notes, loose=True)


def _together(line: dict, said: dict, pictures: dict[str, Picture], key: str, where: str) -> dict:
    """One line of what the files of a sample hold."""
    line = {name: value for name, value in line.items() if value is not None}
    line.setdefault("id", key.encode(errors="backslashreplace").decode())
    if forms.drawn_of(line) or "parts" in line or "messages" in line:
        found: list[Picture] = []
        line = _linked(line, pictures, found)
        if found:  # each where it belongs
            return line | {"images": None}
    if conversation.key_of(line):
        # Where the line names them they are in its order, else in the archive's.
        named = [*conversation.listed(line.get("images")), *conversation.listed(line.get("image"))]
        found = [_named(name, pictures) for name in named]
        shown = found if found and all(found) else list(pictures.values())
        if named and shown is not found and len(pictures) > 1:
            # The order of the archive, which is that of names, would be a guess.
            raise UserError(
                where, f"the pictures {short(named)}, and members *.{', *.'.join(pictures)}",
                "names whose ends are those of the members",
                "Name the members so in the JSON, or leave the names out where the order is right.",
            )  # fmt: skip
        line.pop("image", None)
        return line | {"images": shown}
    if "caption" in said:
        for name in ("caption", "captions", "text"):
            line.pop(name, None)
        if not pictures:
            said = {"text": said["caption"]}
    line |= said
    line.pop("images", None)
    if len(pictures) == 1:
        line["image"] = next(iter(pictures.values()))
    elif pictures:
        line["images"] = list(pictures.values())
    return line


def _linked(value: Any, pictures: dict[str, Picture], found: list[Picture]) -> Any:
    """The value with its pictures where a key of one names a member; what was `found` is added."""
    if isinstance(value, list):
        return [_linked(item, pictures, found) for item in value]
    if not isinstance(value, dict):
        return value
    linked = {}
    for key, inner in value.items():
        picture = _named(inner, pictures) if key in forms.PICTURE_KEYS else None
        if picture is not None:
            found.append(picture)
        linked[key] = _linked(inner, pictures, found) if picture is None else picture
    return linked


def _named(name: Any, pictures: dict[str, Picture]) -> Picture | None:
    """The picture of a sample that a path in its JSON means, by the end of the name."""
    if not isinstance(name, str):
        return None
    return pictures.get(posixpath.basename(name).partition(".")[2].lower())


def _is_picture(end: str) -> bool:
    return f".{end.rpartition('.')[2]}" in PICTURES


def _samples(file: Path) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """Key of each sample, and by end of name, offset and size of its files; in order."""
    size = file.stat().st_size
    last, found = None, {}
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                archive.members = []  # or all of them would be kept
                base = posixpath.basename(member.name)
                stem, dot, end = base.partition(".")
                if member.isdir() or not stem or not dot or base.startswith("__"):
                    continue
                key = posixpath.join(posixpath.dirname(member.name), stem)
                _check_member(member, size, f"{file}: {member.name}")
                if key != last and found:
                    yield last, found
                    found = {}
                last = key
                if end.lower() in found:
                    raise UserError(
                        f"{file}: {member.name}", "the file twice", "one", "Take one out."
                    )
                found[end.lower()] = (member.offset_data, member.size)
            _check_end(archive, file)
    except tarfile.TarError as error:
        raise UserError(
            str(file), f"{error}", "a tar archive that is not compressed", "Repair or unpack it."
        ) from None
    except OSError as error:
        raise unreadable(str(file), error, "a tar archive") from None
    if found:
        yield last, found


def _check_end(archive: tarfile.TarFile, file: Path) -> None:
    """Python's reader takes a header that is damaged or cut short for the end of the archive."""
    archive.fileobj.seek(archive.offset)
    block = archive.fileobj.read(tarfile.BLOCKSIZE)
    if any(block) or 0 < len(block) < tarfile.BLOCKSIZE:
        whole = len(block) == tarfile.BLOCKSIZE
        found = "an archive that is damaged" if whole else "an archive that is cut short"
        raise UserError(
            str(file), f"{found} at byte {archive.offset:,}", "all of the file",
            "Fetch it again, or pack it anew.",
        )  # fmt: skip


def _check_member(member: tarfile.TarInfo, size: int, where: str) -> None:
    if not member.isfile() or member.issparse():
        raise UserError(where, "a link or a device", "plain files", "Pack the archive anew.")
    if member.offset_data + member.size > size:
        raise UserError(where, "an archive that is cut short", "all of the file", "Fetch it again.")
    end = member.name.rpartition(".")[2].lower()
    if (end in _TEXTS or end == _JSON) and member.size > text.MAX_LINE:
        raise text.too_long(where, text.MAX_LINE)


def _reader(file: Path, offset: int, size: int, where: str) -> Picture:
    return lambda: _read(file, offset, size, where)


def _read(file: Path, offset: int, size: int, where: str) -> bytes:
    def read() -> bytes:
        with file.open("rb") as opened:
            opened.seek(offset)
            return opened.read(size)

    with readable(where, "the archive"):
        return patiently(read)

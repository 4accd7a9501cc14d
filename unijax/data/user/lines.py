"""A file of JSON: an object on each line, or one array of objects. Read where it lies."""

import codecs
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from unijax.core.errors import UserError
from unijax.core.files import open_plain, patiently, readable
from unijax.core.telling import tell_once
from unijax.data.user import text
from unijax.data.user.faults import Faults
from unijax.data.user.notes import Notes
from unijax.data.user.record import to_record
from unijax.data.user.records import FactsOf, UserRecords

_WINDOW = 2**20  # bytes of an array that are looked at together
_SPACE = re.compile("[ \\t\\n\\r\ufeff]*")


class Lines(UserRecords):
    """Random access to the records of a file; only the places of its lines are held.

    Args:
      path: JSON Lines, or an array.
      name: what messages call the file.
      folder: that paths of pictures are relative to.
      place: from the number of a line, and of a record, to what messages call the record.
      change: of every object, before it becomes a record.
      loose: see `to_record`.
      faults: how mistakes of single records are taken.

    Raises:
      UserError: naming the file and the line.
    """

    def __init__(
        self,
        path: Path,
        name: object = None,
        folder: Path | None = None,
        place: Callable[[int, int], str] | None = None,
        change: Callable[[dict], dict] = lambda line: line,
        loose: bool = False,
        faults: Faults | None = None,
    ):
        faults = Faults() if faults is None else faults
        name = path if name is None else name
        self._folder = path.parent if folder is None else folder
        self._change, self._loose = change, loose
        facts, notes, places = FactsOf(), Notes(), []
        with text.reading(path, "a JSONL file"), open_plain(path) as file:
            self._file = os.open(path, os.O_RDONLY)
            is_array = _is_array(file, path)
            self._place = place or (_in_array if is_array else _on_line)(path)
            items = array_items(file, path) if is_array else text.lines_of(file, path)
            for count, (number, offset, content) in enumerate(items, start=1):
                where = self._place(number, count)
                if faults.leaves_out(where):
                    continue
                try:
                    facts.add(self._record(content, where, notes))
                    places.append((number, offset, len(content), count))
                except UserError as error:
                    faults.tell(where, error)
        if not places and not faults.found and not faults.left_out:
            raise UserError(str(name), "no lines", "a record on each line", "Fill the file.")
        if is_array:
            notes.forms["a JSON array"] += len(places)
        line = notes.line(name, len(places))
        if line:
            tell_once(line, line)
        self.facts = facts.done()
        # Number, offset and length of each line, and which record of the file it is.
        self._places = np.array(places, np.int64).reshape(-1, 4)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict:
        number, offset, length, count = map(int, self._places[index])
        where = self._place(number, count)
        return self._record(pread(self._file, length, offset, where), where, Notes())

    def __del__(self):
        if hasattr(self, "_file"):
            os.close(self._file)

    def _record(self, content: bytes, where: str, notes: Notes) -> dict:
        line = self._change(text.parse(content, where))
        return to_record(line, where, self._folder, notes, self._loose)


def pread(file: int, length: int, offset: int, where: str) -> bytes:
    """Of an open file, tried again where it cannot be read for a moment.

    Raises:
      UserError: if it still cannot be; `where` is the record.
    """
    with readable(where, "the file that the record stands in"):
        return patiently(os.pread, file, length, offset)


def _on_line(path: Path) -> Callable[[int, int], str]:
    return lambda number, count: f"{path}:{number}"


def _in_array(path: Path) -> Callable[[int, int], str]:
    return lambda number, count: f"{path}:{number} (record {count})"


def _is_array(file: BinaryIO, path: Path) -> bool:
    text.check_encoding(file, path)
    begin = b""
    while not begin and (more := file.read(4096)):
        begin = more.removeprefix(codecs.BOM_UTF8).lstrip()
    file.seek(0)
    return begin.startswith(b"[")


def array_items(file: BinaryIO, path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(number of its first line, offset, bytes) of every element of an array, one after another.

    The array is never in memory as a whole: a window of it is, which grows to the longest element.
    """
    window = _Window(file, path)
    window.skip("")
    window.take("[")
    window.skip("an element")
    while window.here != "]":
        yield window.element()
        window.skip("a comma or ]")
        if window.here == ",":
            window.take(",")
            window.skip("an element")
            if window.here == "]":
                raise window.error("a comma before ]", "an element behind it")
        elif window.here != "]":
            raise window.error(repr(window.here), "a comma or ]")
    window.take("]")
    window.skip("")
    if window.here:
        raise window.error("more text", "the end of the file behind ]")


class _Window:
    """A part of a file as text, and a place in it."""

    def __init__(self, file: BinaryIO, path: Path):
        self._file, self._path = file, path
        self._text, self._at = "", 0
        self._offset, self._line = 0, 1  # of the place, in the file
        self._ends = False  # whether the window reaches to the end of the file
        self._fill(_WINDOW)

    @property
    def here(self) -> str:
        return self._text[self._at : self._at + 1]

    def take(self, expected: str) -> None:
        assert self.here == expected
        self._move(self._at + 1)

    def skip(self, wanted: str) -> None:
        """To what is no white space; where that is wanted, the file must not end before it."""
        while True:
            self._move(_SPACE.match(self._text, self._at).end())
            if self.here or self._ends:
                break
            self._fill(_WINDOW)
        if wanted and not self.here:
            raise self.error("the end of the file within the array", wanted)

    def element(self) -> tuple[int, int, bytes]:
        size = _WINDOW
        while True:
            try:
                _, end = text.DECODER.raw_decode(self._text, self._at)
                if end < len(self._text) or self._ends:
                    break
            except (ValueError, RecursionError) as error:
                if self._ends or not self._may_be_cut(error):
                    raise self._broken(error) from None
            if size > text.MAX_LINE:
                raise text.too_long(f"{self._path}:{self._line}", text.MAX_LINE)
            size *= 2
            self._fill(size)
        place = self._line, self._offset
        content = self._text[self._at : end].encode()
        self._move(end)
        return *place, content

    def _may_be_cut(self, error: Exception) -> bool:
        """Whether the element may only go on behind the window."""
        if not isinstance(error, json.JSONDecodeError):
            return False
        return error.msg.startswith("Unterminated") or error.pos > len(self._text) - 16

    def _broken(self, error: Exception) -> UserError:
        line, found = self._line, getattr(error, "msg", f"{error}")
        if isinstance(error, json.JSONDecodeError):
            line += self._text.count("\n", self._at, error.pos)
        if isinstance(error, RecursionError):
            found = "lists or objects nested too deep"
        return UserError(f"{self._path}:{line}", found, "an array of objects", "Repair the file.")

    def error(self, found: str, wanted: str) -> UserError:
        return UserError(f"{self._path}:{self._line}", found, wanted, "Repair the file.")

    def _move(self, end: int) -> None:
        passed = self._text[self._at : end]
        self._offset += len(passed.encode())
        self._line += passed.count("\n")
        self._at = end

    def _fill(self, size: int) -> None:
        """Reads the window anew, so that it begins at the place."""
        self._file.seek(self._offset)
        content = self._file.read(size)
        self._ends = len(content) < size
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            self._text, self._at = decoder.decode(content, final=self._ends), 0
        except UnicodeDecodeError as error:
            line = self._line + content.count(b"\n", 0, error.start)
            raise UserError(
                f"{self._path}:{line}", f"{error}", "text in UTF-8", "Convert the file."
            ) from None

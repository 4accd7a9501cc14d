"""CSV as people write it: which mark parts the cells, which the decimals, and what 12B is.

A file is read as one: if anywhere in it a comma can only be a decimal mark, it is one everywhere.
What was read otherwise than by its letters is said (`Sheet.notes`), what could be read in two ways
is refused.
"""

import csv
import dataclasses
import io
import re
from collections.abc import Sequence

import numpy as np

from unijax.core.errors import UserError

MARKS = (",", ";", "\t", "|")  # between cells
MISSING = {"", "na", "n/a", "nan", "null", "none", "-", "--", "?", "#n/a"}
MULTIPLES = {
    "k": 1e3, "thousand": 1e3, "m": 1e6, "mio": 1e6, "million": 1e6, "b": 1e9, "bn": 1e9, "g": 1e9,
    "billion": 1e9, "t": 1e12, "tn": 1e12, "trillion": 1e12, "p": 1e15, "e": 1e18, "z": 1e21,
    "y": 1e24,
}  # fmt: skip
PLAIN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
SPACES = "[ _'’\u00a0\u2009\u202f]"  # between thousands
SPACED = re.compile(rf"[+-]?[1-9]\d{{0,2}}({SPACES}\d{{3}})+(?!\d)")
COMMAS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?")
POINTS = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})+")
TIMES_TEN = re.compile(r"\s*[×·*x]\s*10\s*(\^|\*\*)?\s*(?=[+-]?\d)", re.IGNORECASE)
POWER = re.compile(r"(2|10)\s*(?:\^|\*\*)\s*(\d{1,2})")
RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
RAISED_TEN = re.compile(r"(?<=10)(?=[⁰¹²³⁴⁵⁶⁷⁸⁹⁻])")
COMMENTS = ("#", "//", "%")  # at the beginning of a line
RULE = re.compile(r":?-{3,}:?")  # below the header of a table in markdown
WITH_UNIT = re.compile(
    rf"(?P<number>.*[\d.])\s*(?P<unit>{'|'.join(sorted(MULTIPLES, key=len, reverse=True))})?"
    r"[\s-]*(?P<of>flops?|tokens?|params?|parameters)?",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A header and rows of cells, all of one length.

    Attributes:
      lines: of the file, where each row begins: 1 is the first.
    """

    names: list[str]
    rows: list[list[str]]
    lines: list[int]
    notes: list[str]

    def column(self, i: int) -> list[str]:
        """The cells under a name."""
        return [row[i] for row in self.rows]

    @property
    def last(self) -> str:
        """The last cell; of no row, the last name."""
        return (self.rows[-1] if self.rows else self.names)[-1]


def is_whole(sheet: Sheet) -> bool:
    """Whether the last cell, of a file that may end anywhere, cannot have lost what matters.

    It has as many decimals as some other of its column, or stands there once more.
    """
    *others, last = sheet.column(len(sheet.names) - 1)
    decimals = [re.fullmatch(r"[+-]?\d*[.,](\d+)", cell) for cell in (*others, last)]
    if decimals[-1] is None:  # of counts any number may be the beginning of another
        return last in others and not re.search(r"\d", last)
    return any(found and len(found[1]) <= len(decimals[-1][1]) for found in decimals[:-1])


def read(text: str, where: str, known: Sequence[str]) -> Sheet:
    """The cells of a CSV.

    Args:
      known: names of columns, by which the mark between cells is found.

    Raises:
      UserError: without a header of such names, or for a row of another number of cells.
    """
    text = _header_uncommented(text, known)
    first = _first_line(text)
    notes = []
    named = re.fullmatch(r"\s*sep=(.)\s*", first, re.IGNORECASE)
    if named:  # how spreadsheets name it
        text = text[text.index(first) + len(first) :]
        first = _first_line(text)
    marks = [named[1]] if named else MARKS
    mark = max(marks, key=lambda m: sum(_bare(x) in known for x in first.replace('"', "").split(m)))
    if mark != ",":
        notes.append(f"cells are parted by {'tabs' if mark == chr(9) else repr(mark)}")
    source = _Lines(text)
    reader = csv.reader(source, delimiter=mark, strict=True, skipinitialspace=True)
    names, rows, lines = None, [], []
    before = csv.field_size_limit(len(text))
    try:
        for row in reader:
            begins = source.begin()
            filled = [cell.strip() for cell in row if cell.strip()]
            if not filled or (mark == "|" and all(map(RULE.fullmatch, filled))):
                continue
            if names is None:
                names = [_bare(x) for x in row]
                source.marks = _comments(source.left, mark, len(names))
                continue
            while len(row) > len(names) and not row[-1].strip():
                row.pop()
            if len(row) != len(names):
                raise UserError(
                    f"{where}: line {begins}",
                    f"{len(row)} cells",
                    f"{len(names)}, as in the header",
                    "It is the last line: the table may be half-written."
                    if source.ended()
                    else f"Correct the line (a cell with {mark!r} in it needs quotes around it).",
                )
            rows.append([cell.strip() for cell in row])
            lines.append(begins)
    except csv.Error as e:
        raise UserError(
            f"{where}: line {source.line}", f"a line that is no CSV ({e})", "cells",
            "Correct it; it may be half-written.",
        ) from e  # fmt: skip
    finally:
        csv.field_size_limit(before)
    if names is None:
        raise UserError(where, "no header", "a line of names of columns", "Add one.")
    if source.comments:
        notes.append(f"{source.comments} comment lines were left out")
    kept = [i for i, name in enumerate(names) if name or any(row[i] for row in rows)]
    return Sheet([names[i] for i in kept], [[row[i] for i in kept] for row in rows], lines, notes)


class _Lines:
    """The lines of a text but for comments, as a reader of CSV takes them.

    What looks like a comment within a cell of several lines is none.

    Attributes:
      line: the last one that was taken, from 1.
      comments: how many were left out.
      marks: what they begin with.
    """

    def __init__(self, text: str):
        self._left = list(io.StringIO(text, newline=""))[::-1]
        self._first = None  # of the row that is read
        self.line = self.comments = 0
        self.marks = COMMENTS

    def __iter__(self):
        return self

    def __next__(self) -> str:
        while self._left:
            found = self._left.pop()
            self.line += 1
            if self._first is None and found.lstrip().startswith(self.marks):
                self.comments += 1
                continue
            self._first = self._first or self.line
            return found
        raise StopIteration

    def begin(self) -> int:
        """Where the row that was read began; what comes next is another one."""
        first, self._first = self._first, None
        return first

    @property
    def left(self) -> list[str]:
        """The lines that were not taken yet, in order."""
        return self._left[::-1]

    def ended(self) -> bool:
        return not self._left


def _header_uncommented(text: str, known: Sequence[str]) -> str:
    """The text, its header without the # that numpy.savetxt puts ahead of it."""
    line = next(iter(text.splitlines()), "")
    names = re.split(r"[,;\t|]", line.lstrip("\ufeff# "))
    if not line.lstrip("\ufeff").startswith("#") or sum(_bare(x) in known for x in names) < 2:
        return text
    return text.replace(line, line.lstrip("\ufeff# "), 1)


def _comments(lines: Sequence[str], mark: str, cells: int) -> tuple[str, ...]:
    """What comments begin with here: not what the first cell of every row does (ids such as #1)."""
    rows = [line.strip() for line in lines if line.count(mark) == cells - 1]
    ids = [c for c in COMMENTS if rows and all(re.match(rf"{c}\S", row) for row in rows)]
    return tuple(c for c in COMMENTS if c not in ids)


def _bare(name: str) -> str:
    return name.strip().strip("\ufeff").strip()


def _first_line(text: str) -> str:
    """The header, before any comment."""
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith(COMMENTS):
            return line
    return ""


def decimal_comma(
    columns: Sequence[Sequence[str]], losses: Sequence[Sequence[str]] = ()
) -> bool | None:
    """Whether commas are decimal marks in these columns of numbers; None where nothing tells.

    Args:
      losses: those of the columns that never have thousands.
    """
    if any("," in cell for column in losses for cell in column):
        return True
    seen = None
    for cell in (x for column in columns for x in column):
        if "," not in cell:
            continue
        number = re.sub(SPACES, "", cell)
        if re.search(r"\.\d+,\d*|,\d+e|(?<!\d)0,\d|,\d{1,2}(?!\d)|,\d{4,}", number, re.IGNORECASE):
            return True
        if number.count(",") > 1 or re.search(r",\d{3}\.\d", number):
            seen = False
    return seen


def numbers(
    cells: Sequence[str], where: str, lines: Sequence[int], comma: bool | None, counts: bool
) -> tuple[np.ndarray, list[str]]:
    """The values of a column, NaN for what is missing.

    Args:
      comma: whether a comma is a decimal mark, if that is known of the file.
      counts: these are counts, not losses: a comma or point before three digits parts thousands
        where nothing else is known, and letters multiply.

    Returns:
      Beside the values what was read otherwise than by its letters.

    Raises:
      UserError: for a cell that is no number, by its line.
    """
    values, read = np.empty(len(cells)), {}
    for i, cell in enumerate(cells):
        try:
            values[i], how = _number(cell, comma, counts)
        except ValueError:
            raise UserError(
                f"{where}, line {lines[i]}", repr(cell), "a number, such as 1.3e9 or 2.345",
                "Correct the cell.",
            ) from None  # fmt: skip
        if how and how not in read:
            read[how] = f"{where.split(': ')[-1]}: {cell} was read as {values[i]:.10g} ({how})"
    return values, list(read.values())


def _number(cell: str, comma: bool | None, counts: bool) -> tuple[float, str]:
    """A cell's value, and what was done for it."""
    if cell.casefold() in MISSING:
        return float("nan"), ""
    if cell.casefold().lstrip("+-") in ("inf", "infinity"):
        return float(cell), ""
    cell = RAISED_TEN.sub("^", cell).translate(RAISED)
    parts = WITH_UNIT.fullmatch(cell)
    if parts is None or ((parts["unit"] or parts["of"]) and not counts):
        raise ValueError(cell)
    if parts["unit"] and comma is None and re.fullmatch(r"[+-]?\d{1,3},\d{3}", parts["number"]):
        raise ValueError(cell)  # 1,125B is either
    value, how = _digits(parts["number"], comma, counts)
    if parts["unit"]:
        return value * MULTIPLES[parts["unit"].casefold()], ", ".join([*how, "multiplied out"])
    return value, ", ".join(how)


def _digits(number: str, comma: bool | None, counts: bool) -> tuple[float, list[str]]:
    """The same without a unit."""
    if power := POWER.fullmatch(number):
        return float(power[1]) ** int(power[2]), ["multiplied out"]
    plain, how = TIMES_TEN.sub("e", number), []
    if SPACED.match(plain):
        plain, how = re.sub(SPACES, "", plain), ["thousands apart"]
    by_points = plain.count(".") > 1 or (comma and counts)
    if "," in plain:
        if comma is not True and (comma is False or counts) and COMMAS.fullmatch(plain):
            plain, how = plain.replace(",", ""), ["thousands apart"]
        elif comma is not False and plain.count(",") == 1:
            plain, how = plain.replace(".", "").replace(",", "."), [*how, "decimal comma"]
    elif by_points and POINTS.fullmatch(plain):
        plain, how = plain.replace(".", ""), ["thousands apart"]
    if not PLAIN.fullmatch(plain):
        raise ValueError(number)
    return float(plain), how

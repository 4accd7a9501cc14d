"""A user's text files: UTF-8, with a byte-order mark or without; a line ends at a line feed.

Other characters that Python takes for the end of a line (U+2028, U+0085, form feeds) are text.
"""

import codecs
import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from unijax.core.errors import UserError
from unijax.core.files import is_away, open_plain, unreadable

MAX_LINE = 64 * 2**20  # bytes of a record: several pictures as base64, and no mistake in a file
_MAX_DIGITS = 4300  # as Python's own limit, which is about time
_BOM = codecs.BOM_UTF8
_OTHERS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # as JSON writes half of a surrogate pair, or both


@contextlib.contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """Makes a UserError of a file that cannot be read."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise UserError(str(path), "no plain file", expected, "Correct the path.")
        yield
    except OSError as error:
        if is_away(error):
            raise unreadable(str(path), error, expected) from error
        found = f"{error.strerror or error}"
        raise UserError(str(path), found, expected, "Correct the path.") from None


def lines_of(file: BinaryIO, path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(number, offset, bytes) of every line that is not blank, counted from 1.

    Raises:
      UserError: for a line of more than MAX_LINE bytes, or another encoding.
    """
    check_encoding(file, path)
    offset = number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise too_long(f"{path}:{number}", MAX_LINE)
        if line.removeprefix(_BOM).strip():
            yield number, offset, line
        offset += len(line)


def check_encoding(file: BinaryIO, path: Path) -> None:
    """Raises a UserError where a byte-order mark says that a file is not UTF-8."""
    begin = file.read(4)
    file.seek(0)
    for mark, name in _OTHERS.items():
        if begin.startswith(mark):
            raise UserError(
                str(path), f"text in {name}", "UTF-8",
                f"Convert it: iconv -f {name} -t UTF-8 FILE > NEW.",
            )  # fmt: skip


def too_long(where: str, limit: int) -> UserError:
    return UserError(
        where, f"a record of more than {limit} bytes", "shorter ones", "Divide or repair it."
    )


def decoded(content: bytes, where: str, first_line: int | None = None) -> str:
    """Text of UTF-8, without byte-order marks where lines begin (joined files have several).

    Args:
      content: one line, or several.
      where: for messages; with `first_line`, the number of the bad line is put behind it.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        if first_line is not None:
            number = first_line + content.count(b"\n", 0, error.start)
            where = f"{where}:{number}"
        raise UserError(where, f"{error}", "text in UTF-8", "Convert the file.") from None
    if "\0" in text:  # so does ASCII in UTF-16 decode
        if first_line is not None:
            where = f"{where}:{first_line + text.count(chr(10), 0, text.index(chr(0)))}"
        raise UserError(
            where, "null bytes: UTF-16 without its mark, or no text", "text in UTF-8",
            "Convert the file.",
        )  # fmt: skip
    return re.sub("^\ufeff", "", text, flags=re.MULTILINE) if "\ufeff" in text else text


def read_text(path: Path) -> str:
    """A whole text file, its lines ending with a line feed alone.

    Where it has none, they ended with a carriage return, as old systems write it.
    """
    with reading(path, "a text file"), open_plain(path) as file:
        check_encoding(file, path)
        content = file.read(MAX_LINE + 1)
    if len(content) > MAX_LINE:
        raise too_long(str(path), MAX_LINE)
    text = decoded(content, str(path), 1)
    return text.replace("\r\n", "\n") if "\n" in text else text.replace("\r", "\n")


def text_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, stripped."""
    return [line.strip() for line in read_text(path).split("\n") if line.strip()]


def parse(content: bytes, where: str) -> dict:
    """An object of JSON, its numbers as the text that they are written in.

    Raises:
      UserError: naming the place.
    """
    text = decoded(content, where)
    value = parsed(text, where, lambda text: DECODER.decode(text))
    if not isinstance(value, dict):
        raise UserError(where, f"a {_kind(value)}", "an object, {...}", "Repair the line.")
    return value


def parsed(text: str, where: str, decode: Callable[[str], Any]) -> Any:
    """What `decode` makes of text, without halves of surrogate pairs; its errors with their place.

    Scraped text has such halves of characters as escapes (`\\ud800`), and no tokenizer reads them:
    each becomes U+FFFD.
    """
    try:
        value = decode(text)
        if _HALF.search(text):
            whole = json.dumps(value, ensure_ascii=False)
            value = json.loads(whole.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    except RecursionError:
        raise UserError(
            where, "lists or objects nested too deep", "an object as documented", "Repair the line."
        ) from None
    except ValueError as error:
        found = getattr(error, "msg", None)
        at = f" (column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise UserError(
            where, f"{found or error}{at}", "a line of JSON in UTF-8", "Repair the line."
        ) from None
    return value


def _kind(value: Any) -> str:
    return "text" if isinstance(value, str) else type(value).__name__


def _number(digits: str) -> str:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return digits


# Numbers stay as they are written: an answer of 3.10 is not 3.1. What is no number is nothing.
DECODER = json.JSONDecoder(parse_int=_number, parse_float=_number, parse_constant=lambda name: None)

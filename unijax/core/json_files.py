"""JSON files of others, read within limits: whatever is in them, one clear error. And for them."""

import errno
import json
import pathlib

from unijax.core.errors import UserError
from unijax.core.files import read_plain

MOST_BYTES = 2**25  # of a file: an index of a hundred thousand tensors has half of it


def read_object(path: pathlib.Path, most_bytes: int = MOST_BYTES) -> dict:
    """The object in a JSON file.

    Raises:
      UserError: if there is no such file, it is larger than `most_bytes`, or holds something else.
    """
    try:
        if not path.exists():
            raise UserError(
                str(path.parent),
                f"no {path.name}",
                "a file of that name",
                "Add it, or correct the path.",
            )
        if not path.is_file():  # a pipe would be waited for
            raise UserError(str(path), "no regular file", "a JSON file", "Put the file there.")
        if (size := path.stat().st_size) > most_bytes:
            raise UserError(
                str(path), f"{size:,} bytes", f"at most {most_bytes:,}", "Is it the right file?"
            )
        content = json.loads(read_plain(path, most_bytes).decode("utf-8-sig"))
    except RecursionError:
        raise UserError(str(path), "brackets nested too deep", "JSON", _AGAIN) from None
    except OSError as e:
        if e.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise  # the machine's want, not the file's
        raise UserError(str(path), f"{e.strerror or e}", "a readable file", _AGAIN) from None
    except UserError:
        raise
    except ValueError as e:  # no JSON, no UTF-8, a number of thousands of digits
        raise UserError(str(path), shown(str(e)), "JSON", _AGAIN) from None
    if not isinstance(content, dict):
        found = f"a {type(content).__name__}"
        raise UserError(str(path), found, "a JSON object, {...}", _AGAIN)
    return content


_AGAIN = "Fetch or write the file again."


def write_object(path: pathlib.Path, content: dict) -> None:
    """As the files of Hugging Face's libraries are: indented by two, UTF-8."""
    text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
    path.write_text(text, encoding="utf-8")


def shown(value: object, most: int = 100) -> str:
    """A value from a file for a message: in one line, without control characters, not long.

    A string is given as it is, everything else as `repr` has it.
    """
    try:
        text = value if isinstance(value, str) else repr(value)
    except (RecursionError, ValueError):  # deep nesting; an integer of thousands of digits
        text = f"a {type(value).__name__} too large to show"
    text = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: most + 1]
    )
    return text if len(text) <= most else text[: most - 3] + "..."


def quoted(value: object) -> str:
    """The same, a string in quotes."""
    return repr(shown(value)) if isinstance(value, str) else shown(value)

"""Where a picture of a user's record is: a file, a data: URI, or bytes of a larger file."""

import base64
import binascii
import reprlib
import unicodedata
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unijax.core.errors import UserError
from unijax.core.files import read_plain, readable

PICTURES = {
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".gif", ".bmp", ".dib",
    ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
}  # fmt: skip
# Pictures, or what may hold some, that are not read: none is left out in silence.
STRANGERS = {
    ".heic", ".heif", ".jxl", ".svg", ".psd", ".tga", ".exr", ".dng", ".cr2", ".nef", ".pdf",
    ".eps", ".mp4", ".mov", ".avi", ".webm", ".zip", ".tar", ".tgz", ".rar", ".7z", ".jp2", ".j2k",
    ".jpx", ".ico", ".pcx", ".arrow",
}  # fmt: skip
_MOST_ESCAPES = 2**20  # of characters in a data: URI
Picture = Callable[[], bytes]  # reads the encoded picture, when it is drawn


class _Shown(reprlib.Repr):
    def repr_function(self, value: Any, level: int) -> str:
        return "<picture>"  # what reads one


def short(value: Any) -> str:
    """A value as messages show it, however large it is."""
    shown = _Shown()
    shown.maxstring = shown.maxother = 80
    return shown.repr(value)


def picture(reference: Any, where: str, folder: Path) -> Picture:
    """Reads the picture when called; that it is there is checked now.

    Args:
      reference: a path, relative to `folder`; a URL, `file:` or `data:`; an object that has one of
        these as `path` or `url`, or bytes as `bytes`; or a function that reads already.
      where: the record, for messages.
      folder: of the file that the record stands in.

    Raises:
      UserError: for a file that is not there, a URL of the web, or what is no reference.
    """
    if isinstance(reference, list) and len(reference) == 1:
        (reference,) = reference
    if isinstance(reference, dict):
        named = [reference[key] for key in ("bytes", "path", "url") if reference.get(key)]
        reference = named[0] if named else reference
    if callable(reference):
        return reference
    if isinstance(reference, bytes):
        return lambda: reference
    if not isinstance(reference, str) or not reference.strip():
        found = f"{short(reference)} for a picture"
        raise UserError(where, found, "the path of its file", "Name the file.")
    scheme, _, rest = reference.partition(":")
    if scheme.lower() == "data" and rest:
        _of_data(rest, where)
        return lambda: _of_data(rest, where)
    if rest.startswith("//"):
        if scheme.lower() != "file":
            raise UserError(
                where,
                f"a picture elsewhere, {short(reference)}",
                "a file, or a data: URI",
                "Download the pictures and name their files.",
            )
        reference = urllib.parse.unquote(rest[2:].removeprefix("localhost"))
    return _of_file(reference, where, folder)


def is_picture(value: Any, folder: Path) -> bool:
    """Whether a value is the path of a picture that is there."""
    named = isinstance(value, str) and value[value.rfind(".") :].lower() in PICTURES
    return named and _find(value, folder) is not None


def _find(path: str, folder: Path) -> Path | None:
    """The file that a path means."""
    # The second as Windows writes it; the last as macOS writes accents, or as others do.
    slashes = path.replace("\\", "/")
    names = path, slashes, *(unicodedata.normalize(form, slashes) for form in ("NFD", "NFC"))
    try:
        return next((folder / name for name in names if (folder / name).is_file()), None)
    except (OSError, ValueError):  # a name that is too long, or has a null byte
        return None


def _of_file(path: str, where: str, folder: Path) -> Picture:
    file = _find(path, folder)
    if file is None:
        raise UserError(
            where,
            f"no picture {short(path)}",
            f"a file, its path relative to {folder}",
            "Correct the path.",
        )
    return lambda: read_file(file, where)


def read_file(file: Path, where: str) -> bytes:
    with readable(where, f"the picture {file}"):
        return read_plain(file)


def _of_data(uri: str, where: str) -> bytes:
    """The bytes of a data: URI, from behind its scheme."""
    kind, comma, content = uri.partition(",")
    try:
        if not comma:
            raise ValueError("no comma")
        if (escapes := content.count("%")) > _MOST_ESCAPES:  # each is many bytes while it is read
            raise ValueError(f"{escapes} characters written as %, at most {_MOST_ESCAPES}")
        if not kind.endswith(";base64"):
            return urllib.parse.unquote_to_bytes(content)
        letters = "".join(urllib.parse.unquote(content).split()).rstrip("=")
        return base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
    except (ValueError, binascii.Error) as error:
        raise UserError(
            where, f"a damaged data: URI ({error})", "a picture in base64", "Repair it."
        ) from None

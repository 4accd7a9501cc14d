"""Checksums of the files of a folder, in a file beside them: a disk may give back other bytes."""

import hashlib
import json
import pathlib
from collections.abc import Callable

from unijax.core.errors import UserError
from unijax.core.files import open_plain, remove, sweep
from unijax.core.telling import tell_once

FILE = "sums.json"
_DAY = 86_400.0  # seconds


def _sum(path: pathlib.Path) -> str:
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(folder: pathlib.Path, leave: str = "") -> None:
    """Of all files right in the folder, as they are now, but for the one of that name."""
    sums = {path.name: _sum(path) for path in sorted(folder.iterdir()) if path.name != leave}
    (folder / FILE).write_text(json.dumps(sums, indent=1) + "\n")


def hold(folder: pathlib.Path) -> bool:
    """Whether all files that had a sum are there, as they were; False without sums."""
    try:
        sums = json.loads((folder / FILE).read_bytes())
        return bool(sums) and all(_sum(folder / name) == kept for name, kept in sums.items())
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return False


def make_once(
    folder: pathlib.Path, whole: Callable[[pathlib.Path], bool], fill: Callable[[], None]
) -> bool:
    """Makes a folder where there is none that is whole; returns whether it did.

    What others left half done beside it is swept after a day.

    Args:
      whole: whether a folder is as it was made, as `hold` says.
      fill: makes it, atomically.
    """
    if whole(folder):
        return False
    sweep(folder.parent, older=_DAY)
    if folder.exists():
        tell_once(str(folder), f"{folder}: damaged, or of another release; it is made anew")
        remove(folder)
    try:
        fill()
    except UserError:
        if not whole(folder):  # else another process, or machine, made the same meanwhile
            raise
    return True

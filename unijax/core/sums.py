"""Checksums of the files of a folder, in a file beside them: a disk may give back other bytes."""

import hashlib
import json
import pathlib

FILE = "sums.json"


def _sum(path: pathlib.Path) -> str:
    with path.open("rb") as file:
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

"""Data that lies in several files of one kind: which of them are read, and in what order."""

import re
from pathlib import Path

from unijax.core.errors import UserError
from unijax.data.user.folder import HELD_OUT, TRAINED_ON, files_in

# As the hub's datasets name the files of their parts.
_SPLIT = re.compile(rf"(?<![a-z])({TRAINED_ON}|{HELD_OUT})(?![a-z])")


def shards(path: Path, suffix: str) -> list[Path]:
    """The file, or of a folder all with the suffix, in order.

    Raises:
      UserError: for a path that leads to none, or a folder with the files of several splits.
    """
    if not path.is_dir():
        if not path.is_file():
            raise UserError(
                str(path), "no such file", f"a file or a folder ({suffix})", "Correct the path."
            )
        return [path]
    names = [name for name in files_in(path) if name.lower().endswith(suffix)]
    if not names:
        raise UserError(str(path), f"no file *{suffix}", "at least one", "Correct the path.")
    splits = {found: name for name in names for found in _SPLIT.findall(name.lower())}
    if len(splits) > 1:
        raise UserError(
            str(path),
            f"files of several splits ({', '.join(sorted(splits))})",
            "those of one: what is held out would be trained on",
            "Name the files, or move them into a folder for each split.",
        )
    return [path / name for name in names]

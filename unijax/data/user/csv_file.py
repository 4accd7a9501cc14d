"""A table of characters that names pictures and says their captions: `.csv` and `.tsv`."""

from pathlib import Path

from unijax.data.user.faults import Faults
from unijax.data.user.held import Held
from unijax.data.user.metadata import IMAGE_NAMES, rows_of
from unijax.data.user.notes import Notes


def open_csv(path: Path, faults: Faults | None = None) -> Held:
    """A record for each row: columns are what keys are in a line of JSONL, others are left alone.

    Args:
      path: with the names of columns in its first row; paths of pictures are relative to it.
      faults: how mistakes of single rows are taken.

    Raises:
      UserError: naming the file and the line.
    """
    lines = [(where, _line(row)) for where, row in rows_of(path)]
    return Held(path, lines, path.parent, True, faults, Notes(), "a table of characters")


def _line(row: dict) -> dict:
    found = next((name for name in IMAGE_NAMES if name in row), "image")
    title = "caption" if "caption" not in row else "title"  # as OpenCLIP's tables call it
    return {{found: "image", "title": title}.get(key, key): value for key, value in row.items()}

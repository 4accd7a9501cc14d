"""Where the shipped data is found, and where prepared data is kept: the only place that knows."""

import os
from pathlib import Path

from unijax.core.errors import UserError


def assets_dir() -> Path:
    """The folder of the shipped data and weights.

    `$UNIJAX_ASSETS` where it is set; otherwise `assets/` beside the package, where a checkout has
    it (`pip install -e .`). Raises UserError when there is no such folder.
    """
    named = os.environ.get("UNIJAX_ASSETS")
    path = Path(named) if named else Path(__file__).resolve().parents[2] / "assets"
    if not path.is_dir():
        raise UserError(
            "$UNIJAX_ASSETS" if named else "shipped data",
            f"no folder {path}",
            "the folder `assets` of a unijax checkout",
            "Set UNIJAX_ASSETS to it, or install with `pip install -e .` from a checkout.",
        )
    return path


def cache_dir() -> Path:
    """The folder where prepared datasets are kept: `$UNIJAX_DATA`, or `~/.cache/unijax`."""
    return Path(os.environ.get("UNIJAX_DATA") or Path.home() / ".cache" / "unijax")

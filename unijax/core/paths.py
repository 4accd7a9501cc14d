"""Where what is shipped is found, and where prepared data is kept: the only place that knows."""

import os
import re
from pathlib import Path

from unijax.core.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]
# As of a bucket; also as a path that was made of one has it, with one stroke.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def is_address(text: str | os.PathLike) -> bool:
    """Whether it says `gs://...`, `s3://...` or the like: no path, and no folder here."""
    return bool(_ADDRESS.match(os.fspath(text)))


def local(path: str | os.PathLike) -> Path:
    """The path, which is one of this machine.

    Raises:
      UserError: for an address: a folder of that name would be made in its stead.
    """
    if is_address(path):
        raise UserError(
            re.sub(":/+", "://", os.fspath(path), count=1), "an address", "a path of this machine",
            "Mount the bucket (gcsfuse, mountpoint-s3), or copy from and to it.",
        )  # fmt: skip
    return Path(path)


def assets_dir() -> Path:
    """The folder of the shipped data and weights.

    `$UNIJAX_ASSETS` where it is set; otherwise what the package holds, where a checkout has a link.
    Raises UserError when there is no such folder.
    """
    named = os.environ.get("UNIJAX_ASSETS")
    path = local(named) if named else _PACKAGE / "assets"
    if not path.is_dir():
        raise UserError(
            "$UNIJAX_ASSETS" if named else "shipped data",
            f"no folder {path}",
            "the folder `assets` of unijax",
            "Set UNIJAX_ASSETS to it, or install unijax again.",
        )
    return path


def shipped(path: str | os.PathLike) -> Path:
    """A path as configs give it: `assets/...` is shipped data, in whatever folder a command runs.

    Where there is one of that name here, as in a checkout, it is that.
    """
    path = Path(path)
    if path.parts[:1] == ("assets",) and not path.exists():
        return assets_dir().joinpath(*path.parts[1:])
    return path


def configs_dir() -> Path:
    """The folder of the shipped configs."""
    return _PACKAGE / "configs"


def cache_dir() -> Path:
    """The folder where prepared datasets are kept: `$UNIJAX_DATA`, or `~/.cache/unijax`."""
    return local(os.environ.get("UNIJAX_DATA") or Path.home() / ".cache" / "unijax")

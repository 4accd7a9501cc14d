"""Writing files so that a reader never sees half of one."""

import contextlib
import errno
import os
import pathlib
import shutil
import tempfile
import uuid
from collections.abc import Iterator

from unijax.core.errors import Unwritable, UserError

# Of a disk that may take more later, or a share that may come back: no mistake of who named it.
OF_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE)


def _unwritable(path: pathlib.Path, error: OSError) -> UserError:
    kind = Unwritable if error.errno in OF_DISK else UserError
    return kind(
        str(path),
        f"a place that cannot be written ({error.strerror or error})",
        "a writable directory with free space",
        "Choose another path, or free space; what was there before is untouched.",
    )


def _beside(path: pathlib.Path) -> pathlib.Path:
    """A new name. Not of `tempfile`, whose files others of the user's group cannot read."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")


def writable_directory(path: str | os.PathLike) -> pathlib.Path:
    """Makes the directory where it is missing, and makes sure that files can be made in it.

    Raises:
      UserError: if not; `Unwritable` where the disk, not the path, is at fault.
    """
    path = pathlib.Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as e:
        raise _unwritable(path, e) from e
    return path


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path`; on success it is moved there, on failure removed.

    Raises:
      UserError: if the place cannot be written or the disk is full.
    """
    path = pathlib.Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(path)
        temporary.touch(exist_ok=False)
    except OSError as e:
        raise _unwritable(path, e) from e
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as e:
        raise _unwritable(path, e) from e
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary directory beside `path`, which must not exist; moved there on success.

    Raises:
      UserError: if `path` exists and is not an empty directory, or the place cannot be written. One
        that is raised inside names `path`, too, not the temporary directory.
    """
    path = pathlib.Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(
            str(path),
            "something that exists already",
            "a new or empty directory",
            "Choose another path or remove this one first.",
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(path)
        temporary.mkdir()
    except OSError as e:
        raise _unwritable(path, e) from e
    try:
        yield temporary
        if path.exists():
            path.rmdir()
        os.replace(temporary, path)
    except UserError as e:
        # Who reads it knows the place by the name that it would have got.
        said = (e.where, e.found, e.expected, e.fix)
        raise type(e)(*(text.replace(temporary.name, path.name) for text in said)) from e
    except OSError as e:
        raise _unwritable(path, e) from e
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

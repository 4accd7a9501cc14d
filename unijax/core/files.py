"""Writing files so that a reader never sees half of one, whatever ends the writer.

All that gets a name which others read gets it in `commit`: what it consists of is on the disk
before (a machine may lose its power), and only who holds the directory may (`core.lease`). Calls
that a network file system may refuse for a moment are tried again (`patiently`).
"""

import contextlib
import errno
import os
import pathlib
import re
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from typing import BinaryIO, TypeVar

from unijax.core.errors import Unreadable, Unwritable, UserError
from unijax.core.paths import is_address, local

T = TypeVar("T")

# Calls that may succeed when they are made again: interrupted, too much in work, a server that is
# away for a moment.
_TRANSIENT = (
    "EINTR", "EAGAIN", "EBUSY", "ENOMEM", "ENOBUFS", "EMFILE", "ENFILE", "ENOLCK", "EDEADLK",
    "ETXTBSY", "ETIME", "ETIMEDOUT", "ENOTCONN", "ENETDOWN", "ENETUNREACH", "ENETRESET",
    "ECONNABORTED", "ECONNRESET", "ECONNREFUSED", "EHOSTDOWN", "EHOSTUNREACH", "ESHUTDOWN", "EPIPE",
    "ENOLINK", "ECOMM", "EPROTO", "EREMOTEIO", "EREMCHG", "ESTALE", "EUSERS", "ENONET", "ENOSR",
    "EALREADY", "EINPROGRESS", "EKEYEXPIRED", "ENOKEY", "ECANCELED",
)  # fmt: skip
TRANSIENT = tuple(getattr(errno, name) for name in _TRANSIENT if hasattr(errno, name))
# Of a disk that may take more later, or a share that may come back: no mistake of who named it.
OF_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, *TRANSIENT)
_PAUSES = (0.01, 0.05, 0.2, 0.5)  # seconds, before a call is made again

# Hidden names of what is being written or removed.
_HALF = re.compile(r"\..+\.[0-9a-f]{8}\.half")
_guards: dict[pathlib.Path, Callable[[], None]] = {}


def patiently(call: Callable[..., T], *args) -> T:
    """Makes a call; where the file system refuses it for a moment, again a few times."""
    for pause in _PAUSES:
        try:
            return call(*args)
        except OSError as e:
            if e.errno not in TRANSIENT:
                raise
        time.sleep(pause)
    return call(*args)


def unwritable(path: str | os.PathLike, error: OSError) -> UserError:
    """What an error of the file system is called; `Unwritable` where no one's mistake caused it."""
    kind = Unwritable if error.errno in OF_DISK else UserError
    return kind(
        str(path),
        f"a place that cannot be written ({error.strerror or error})",
        "a writable directory with free space",
        "Choose another path, or free space; what was there before is untouched.",
    )


@contextlib.contextmanager
def guarded(directory: str | os.PathLike, check: Callable[[], None]) -> Iterator[None]:
    """While inside, nothing is committed under the directory unless `check` returns."""
    key = _key(directory)
    _guards[key] = check
    try:
        yield
    finally:
        del _guards[key]


def _key(path: str | os.PathLike) -> pathlib.Path:
    return pathlib.Path(path if is_address(path) else os.path.abspath(path))


def check_allowed(path: str | os.PathLike) -> None:
    """Raises what the guard of a directory above raises, where there is one."""
    path = _key(path)
    for directory, check in list(_guards.items()):
        if path.is_relative_to(directory):
            check()


def sync(path: str | os.PathLike) -> None:
    """What was written of a file, or the names in a directory, are on the disk when it returns."""
    handle = patiently(os.open, path, os.O_RDONLY)
    try:
        patiently(os.fsync, handle)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ENOTSUP):  # of a file system that has nothing to do
            raise
    finally:
        with contextlib.suppress(OSError):
            os.close(handle)


def sync_tree(path: str | os.PathLike) -> None:
    """Likewise of all that is in a directory, or of a file."""
    if not os.path.isdir(path):
        sync(path)
        return
    for folder, _, names in os.walk(path, topdown=False):
        for name in names:
            sync(os.path.join(folder, name))
        sync(folder)


def commit(temporary: pathlib.Path, path: pathlib.Path, lasting: bool = True) -> None:
    """Gives a file or directory the name that it is read by, whole and for good.

    Args:
      lasting: whether it must outlast a loss of power. What is replaced every second need not.

    Raises:
      OSError: if it could not; the temporary one is left.
    """
    if lasting:
        sync_tree(temporary)
    check_allowed(path)
    _rename(temporary, path)
    if lasting:
        sync(path.parent)


def _rename(source: pathlib.Path, target: pathlib.Path) -> None:
    for pause in _PAUSES:
        try:
            return os.replace(source, target)
        except OSError as e:
            # A server may have done what it did not confirm.
            done = e.errno in TRANSIENT and not source.exists() and target.exists()
            if done:
                return None
            if e.errno not in TRANSIENT:
                raise
        time.sleep(pause)
    return os.replace(source, target)


def hidden(path: pathlib.Path) -> pathlib.Path:
    """A new name beside. Not of `tempfile`, whose files others of the user's group cannot read."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.half")


def remove(path: pathlib.Path) -> None:
    """Removes a directory: its name goes at once, so that no reader finds half of it."""
    check_allowed(path)
    gone = hidden(path)
    _rename(path, gone)
    sync(path.parent)
    discard(gone)


def sweep(directory: pathlib.Path, older: float = 0.0) -> None:
    """Removes what writers that were killed left in a directory, and in those in it.

    To be called by the only one who may write there; or for what nobody wrote to for a time.

    Args:
      older: seconds.
    """
    for folder in (directory, *_folders(directory)):
        for path in _names(folder):
            if _HALF.fullmatch(path.name) and _age(path) >= older:
                discard(path)


def discard(path: pathlib.Path) -> None:
    """Removes a file or a directory that nobody reads, as far as it can be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):  # the next sweep tries again
        path.unlink(missing_ok=True)


def _names(folder: pathlib.Path) -> list[pathlib.Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _folders(directory: pathlib.Path) -> list[pathlib.Path]:
    found = _names(directory)
    return [p for p in found if not _HALF.fullmatch(p.name) and p.is_dir() and not p.is_symlink()]


def _age(path: pathlib.Path) -> float:
    """Seconds since it, or a file right in it, was written; by the clock of who wrote."""
    newest = [p.lstat().st_mtime for p in [path, *_names(path)]]
    return time.time() - max(newest)


def writable_directory(path: str | os.PathLike) -> pathlib.Path:
    """Makes the directory where it is missing, and makes sure that files can be made in it.

    Raises:
      UserError: if not; `Unwritable` where the disk, not the path, is at fault.
    """
    path = local(path)
    try:
        patiently(_make, path)
        patiently(_try_file, path)
    except OSError as e:
        raise unwritable(path, e) from e
    return path


def _make(path: pathlib.Path) -> None:
    path.mkdir(parents=True, exist_ok=True)


def _try_file(path: pathlib.Path) -> None:
    with tempfile.TemporaryFile(dir=path):
        pass


def write_file(path: str | os.PathLike, content: str | bytes, lasting: bool = True) -> None:
    """Writes a file whole, in place of the one that is there. `lasting`: see `commit`.

    Raises:
      UserError: if the place cannot be written or the disk is full.
    """
    content = content.encode() if isinstance(content, str) else content

    def write(temporary: pathlib.Path) -> None:
        temporary.write_bytes(content)

    with atomic_file(path, lasting) as temporary:
        patiently(write, temporary)


def read_plain(path: str | os.PathLike, most_bytes: int = -1) -> bytes:
    """The content of a file that a user named. What is no plain file would be waited for.

    Args:
      most_bytes: of a longer file, the beginning; -1 for all.

    Raises:
      OSError: if it cannot be read, or is a pipe or device.
      UserError: for an address.
    """
    return patiently(_read_plain, path, most_bytes)


def _read_plain(path: str | os.PathLike, most_bytes: int) -> bytes:
    with open_plain(path) as file:
        content = file.read(most_bytes)
    if content is None:  # of /proc: nothing yet
        raise OSError(errno.EINVAL, "no plain file", str(path))
    return content


def is_away(error: OSError) -> bool:
    """Whether what could not be read may be at another time."""
    return error.errno in (*TRANSIENT, errno.EIO)


@contextlib.contextmanager
def readable(where: str, expected: str, fix: str = "Restore it.") -> Iterator[None]:
    """An error in reading is `unreadable`."""
    try:
        yield
    except OSError as e:
        raise unreadable(where, e, expected, fix) from e


def unreadable(where: str, error: OSError, expected: str, fix: str = "Restore it.") -> UserError:
    """What an error in reading is called: `Unreadable` where a later call may succeed."""
    found = f"a file that cannot be read ({error.strerror or error})"
    if is_away(error):
        fix = "Repeat the command once it can be read: it goes on."
        return Unreadable(where, found, expected, fix)
    return UserError(where, found, expected, fix)


def open_plain(path: str | os.PathLike) -> BinaryIO:
    """The same, to be read in parts. One of /proc that has nothing yet says so by an OSError."""
    handle = patiently(os.open, local(path), os.O_RDONLY | os.O_NONBLOCK)
    file = os.fdopen(handle, "rb")
    try:
        _check_plain(handle, path)
    except OSError:
        file.close()
        raise
    return file


def _check_plain(handle: int, path: str | os.PathLike) -> None:
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        raise OSError(errno.EINVAL, "no plain file", str(path))


class Appended:
    """A file of lines that grows. What the disk does not take is kept, and written with the next.

    A line that was cut, as where the machine ended, stays apart from what follows.
    """

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._file = None
        self._unwritten = b""

    def write(self, line: bytes) -> None:
        """Appends a line, and what is left of those before it.

        Raises:
          OSError: if they could not be written.
        """
        self._unwritten += line + b"\n"
        self.flush()

    def flush(self) -> None:
        check_allowed(self._path)
        if self._unwritten:
            patiently(self._flush)

    def _flush(self) -> None:
        if self._file is None:
            with contextlib.ExitStack() as on_failure:
                file = on_failure.enter_context(self._path.open("ab+", buffering=0))
                _check_plain(file.fileno(), self._path)
                size = os.fstat(file.fileno()).st_size
                if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
                    file.write(b"\n")
                on_failure.pop_all()
            self._file = file
        while self._unwritten:
            self._unwritten = self._unwritten[self._file.write(self._unwritten) :]

    def sync(self) -> None:
        """What was written is on the disk."""
        if self._file is not None:
            patiently(os.fsync, self._file.fileno())

    def close(self) -> None:
        """Tries once more to write what is left."""
        try:
            self.flush()
        finally:
            if self._file is not None:
                self._file.close()
                self._file = None


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike, lasting: bool = True) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path`; on success it is moved there, on failure removed.

    Args:
      lasting: see `commit`.

    Raises:
      UserError: if the place cannot be written or the disk is full.
    """
    path = local(path)
    check_allowed(path)
    temporary = hidden(path)
    try:
        patiently(_make, path.parent)
        patiently(temporary.touch)
    except OSError as e:
        raise unwritable(path, e) from e
    try:
        yield temporary
        commit(temporary, path, lasting)
    except OSError as e:
        raise unwritable(path, e) from e
    finally:
        discard(temporary)


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary directory beside `path`, which must not exist; moved there on success.

    Raises:
      UserError: if `path` exists and is not an empty directory, or the place cannot be written. One
        that is raised inside names `path`, too, not the temporary directory.
    """
    path = local(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(
            str(path),
            "something that exists already",
            "a new or empty directory",
            "Choose another path or remove this one first.",
        )
    temporary = hidden(path)
    try:
        patiently(_make, path.parent)
        patiently(_make, temporary)
    except OSError as e:
        raise unwritable(path, e) from e
    try:
        yield temporary
        if path.exists():  # the empty one keeps its mode
            shutil.copymode(path, temporary)
        commit(temporary, path)
    except UserError as e:
        # Who reads it knows the place by the name that it would have got.
        said = (e.where, e.found, e.expected, e.fix)
        raise type(e)(*(text.replace(temporary.name, path.name) for text in said)) from e
    except OSError as e:
        raise unwritable(path, e) from e
    finally:
        discard(temporary)

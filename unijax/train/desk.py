"""The small files of a run in a bucket: kept in a folder of this machine, and put there in time.

Logs, status, tokenizer and the like of a run directory at an address are written to its desk, as to
any directory. Process 0 fetches them from the bucket when the run begins, and puts what has changed
every few seconds, ahead of every checkpoint, and at the end. The arrays of checkpoints never pass
here: Tensorstore writes them where they belong (`train.checkpoint`).
"""

import contextlib
import os
import pathlib
import threading
from collections.abc import Iterator

from unijax.core import lease, storage
from unijax.core.errors import UserError
from unijax.core.files import check_allowed, discard, writable_directory
from unijax.core.paths import is_address
from unijax.core.processes import is_lead

_SECONDS = 10.0  # between two looks at what has changed
BEFORE = "before"  # runs that a run starts from
# Arrays; what is made anew; others' runs; the lease.
_NOT_PUT = ("checkpoints", "cache", "damaged", BEFORE, lease.FOLDER)
_desks: dict[pathlib.Path, "_Desk"] = {}


def home(run_dir: str | os.PathLike) -> str | pathlib.Path:
    """Where checkpoints of a run belong: the address whose desk this is, or the directory."""
    desk = _desks.get(pathlib.Path(run_dir))
    return pathlib.Path(run_dir) if desk is None else desk.address


def put(run_dir: str | os.PathLike) -> None:
    """Puts what has changed on a desk into its bucket; nothing for a directory."""
    desk = _desks.get(pathlib.Path(run_dir))
    if desk is not None and is_lead():
        desk.put()


def forget(folder: pathlib.Path) -> None:
    """Removes from its bucket what was put there of a desk that has nothing worth keeping."""
    _desks[folder].forget()


@contextlib.contextmanager
def opened(run_dir: str | os.PathLike) -> Iterator[pathlib.Path]:
    """The directory that a run writes to: itself, or the desk of an address.

    To be entered by who holds the lease.
    """
    if not is_address(run_dir):
        yield pathlib.Path(run_dir)
        return
    desk = _Desk(storage.normal(run_dir))
    desk.fetch()
    _desks[desk.folder] = desk
    try:
        with desk.kept():
            yield desk.folder
    finally:
        del _desks[desk.folder]
        discard(desk.folder.parent)


class _Desk:
    def __init__(self, address: str):
        self.address = address
        name = address.rpartition("/")[2]
        self.folder = storage.cache_of(address, "desks") / f"{os.getpid()}" / name
        self._known: dict[str, tuple[int, int]] = {}
        self._putting, self._over = threading.Lock(), threading.Event()

    def fetch(self) -> None:
        """The bucket says how it was; what an earlier run left here does not count."""
        discard(self.folder)
        writable_directory(self.folder)
        if is_lead():
            storage.download(self.address, self.folder, lambda name: name.split("/")[0] in _NOT_PUT)
            self._known = dict(self._files())

    def forget(self) -> None:
        """Nothing of it was worth keeping."""
        with contextlib.suppress(UserError):
            for name in storage.listed(self.address):
                if not name.startswith(f"{lease.FOLDER}/"):
                    storage.remove_one(storage.join(self.address, name))

    def _files(self) -> Iterator[tuple[str, tuple[int, int]]]:
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            hidden = any(part.startswith(".") for part in name.split("/"))
            if name.split("/")[0] in _NOT_PUT or hidden:
                continue
            with contextlib.suppress(OSError):  # replaced just now
                if path.is_file():
                    about = path.stat()
                    yield name, (about.st_size, about.st_mtime_ns)

    def put(self) -> None:
        with self._putting:
            for name, about in self._files():
                if self._known.get(name) != about:
                    check_allowed(self.address)
                    content = (self.folder / name).read_bytes()
                    storage.put(storage.join(self.address, name), content)
                    self._known[name] = about

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Puts what changes while inside; and the last of it, if the bucket takes it."""
        if not is_lead():
            yield
            return
        thread = threading.Thread(target=self._keep, name="desk", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()
            with contextlib.suppress(UserError, OSError):
                self.put()

    def _keep(self) -> None:
        while not self._over.wait(_SECONDS):
            with contextlib.suppress(UserError, OSError):  # the next time
                self.put()

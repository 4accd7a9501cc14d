"""Who writes in a run directory: one process at a time, also where several machines share it.

`lease/<token>` in the run directory says who holds it. A token is taken by making its file, which
only one can do, and is greater than the one that it follows; the greatest counts. The holder
touches its file now and then, and removes it in the end. Whoever finds one that was not touched for
`seconds`, or whose process is gone, takes the next token, removes the file of the one before and
what that holder had not finished (`files.sweep`). No locks: network file systems and buckets may
have none.

Before anything is committed under the directory (`files.commit`) the holder looks whether its file
is as it wrote it, and the greatest. So one that was stopped, or cut off, and wakes cannot commit:
what it had begun before is swept, and what it begins then is refused. No clocks of two machines are
compared.

In a bucket (`core.storage`) a token is an object that is put only where there is none of its name,
and a sign is an object beside it.
"""

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import re
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from unijax.core import storage
from unijax.core.errors import UserError
from unijax.core.files import (
    discard,
    guarded,
    hidden,
    patiently,
    read_plain,
    sweep,
    sync,
    unwritable,
)
from unijax.core.json_files import shown
from unijax.core.paths import is_address
from unijax.core.processes import is_lead, job_id, of_the_lead

FOLDER = "lease"
SECONDS = 60.0  # after which a holder that gives no sign has lost its lease
_SIGNS = 6  # in that time
_TOGETHER = 5.0  # seconds that the processes of a run wait between two words of process 0
_DAY = 86_400.0
_TOKEN = re.compile("[0-9]+")
_MOST_BYTES = 2**16
# Errors of what has the name of a file and is none: a folder, a socket, links in a circle.
_NO_FILE = (errno.EINVAL, errno.EISDIR, errno.ENXIO, errno.ELOOP)


class Held(UserError):
    """A run directory that another process holds. Nothing in it was touched."""


class Lost(UserError):
    """A run directory that this process held, and no longer does. Nothing more was written."""


@dataclasses.dataclass(frozen=True)
class Owner:
    """A process, as a lease names it.

    Attributes:
      host: name of its machine.
      pid: of the process there.
      job: id that the engine gave it; "" without one.
      since: seconds since 1970.
      seconds: see `SECONDS`.
      boot: of the machine, and the process table that `pid` is of; "" where that is not known.
      began: when the process began, in ticks of its machine.
      mark: of this lease alone.
    """

    host: str
    pid: int
    job: str
    since: float
    seconds: float
    boot: str
    began: int
    mark: str

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        job = f", job {shown(self.job)}" if self.job else ""
        return f"process {self.pid} on {shown(self.host)}{job}, since {since}"


def _boot() -> str:
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process(pid: int) -> tuple[int, bool]:
    """When a process of this machine began, and whether it is stopped; (0, False): it is gone."""
    try:
        # Behind the name, which may hold anything, in parentheses.
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (0, False) if fields[0] in "ZX" else (int(fields[19]), fields[0] in "Tt")
    except (OSError, ValueError, IndexError):
        return 0, False


@contextlib.contextmanager
def hold(run_dir: str | os.PathLike, seconds: float = SECONDS) -> Iterator[None]:
    """Holds an existing directory while inside; of several processes of a run, process 0 for all.

    A holder that gives no sign is waited for: so long as it says, at most.

    Args:
      run_dir: a path, or an address.

    Raises:
      Held: if another run holds it.
      Lost: by what is committed inside, where another run took it meanwhile.
      UserError: if the place cannot be written.
    """
    with contextlib.ExitStack() as at_end:
        error: Exception | None = None
        if is_lead():
            lease = _Lease(run_dir, job_id(), seconds)
            taking = _Taking(lease)
        while (state := int(of_the_lead(np.asarray(taking.state() if is_lead() else 0)))) == 0:
            pass
        if is_lead():
            error = taking.error
        if state < 0:
            raise error or Held(
                str(run_dir), "it not given to process 0, which says why", "to hold it", ""
            )
        if is_lead():
            at_end.callback(lease.release)
            at_end.enter_context(guarded(run_dir, lease.check))
        yield


class _Taking(threading.Thread):
    """Takes a lease, which may last. The processes of a run wait together a little at a time."""

    def __init__(self, lease: "_Lease"):
        super().__init__(name="lease", daemon=True)
        self._lease = lease
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._lease.take()
        except Exception as e:
            self.error = e

    def state(self) -> int:
        """1: taken; -1: not, for an error; 0 after seconds: not yet."""
        self.join(_TOGETHER)
        return 0 if self.is_alive() else -1 if self.error else 1


class _Shelf(Protocol):
    """Where the tokens of a lease stand, each with a text."""

    def make(self) -> None: ...

    def newest(self) -> int | None:
        """The greatest token; None without one."""

    def create(self, token: int, content: str) -> bool:
        """Whether the token is ours. It appears with its content, or not at all."""

    def text(self, token: int) -> str:
        """ "" without one."""

    def sign(self, token: int) -> object:
        """Changes with every sign that a holder gives; None without one."""

    def give_sign(self, token: int) -> None: ...

    def remove(self, token: int) -> None: ...

    def remove_below(self, token: int) -> None:
        """Those before, and what their holders left half done."""

    def is_gone(self) -> bool:
        """Whether there is no such directory any more."""


class _Lease:
    def __init__(self, run_dir: str | os.PathLike, job: str, seconds: float):
        self._run_dir = os.fspath(run_dir)
        if is_address(run_dir):
            self._shelf: _Shelf = _Objects(storage.normal(run_dir))
        else:
            self._shelf = _Files(pathlib.Path(os.path.abspath(run_dir)))
        self._owner = Owner(
            socket.gethostname(), os.getpid(), job, time.time(), float(seconds), _boot(),
            _process(os.getpid())[0], uuid.uuid4().hex,
        )  # fmt: skip
        self._content = json.dumps(dataclasses.asdict(self._owner)) + "\n"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._give_signs, name="lease", daemon=True)

    def take(self) -> None:
        try:
            while True:
                self._shelf.make()
                last = self._shelf.newest()
                if last is not None:
                    self._wait_for_end(last)
                self._token = 1 if last is None else last + 1
                # The folder goes with a lease that is given back.
                with contextlib.suppress(FileNotFoundError):
                    if self._shelf.create(self._token, self._content):
                        break
            self._shelf.remove_below(self._token)
            self._thread.start()
        except OSError as e:
            raise unwritable(self._run_dir, e) from e

    def check(self) -> None:
        """Raises Lost where another has taken the directory, or it is gone."""
        # Its own file is read: a network file system may list the folder as it was a minute ago.
        mine = self._shelf.text(self._token) == self._content
        if mine and self._shelf.newest() == self._token:
            return
        found = "no such directory" if self._shelf.is_gone() else "its lease removed or damaged"
        expected, fix = "the run directory as it was", "It was moved or removed meanwhile."
        with contextlib.suppress(OSError):
            newest = self._shelf.newest()
            owner = None if newest is None else _owner(self._shelf.text(newest))
            if owner is not None and (newest != self._token or owner.pid):
                found = f"it taken over by {owner}"
                expected = "to hold it still: this process gave no sign for a time"
                fix = "That one goes on from the last checkpoint; end one of them."
        raise Lost(self._run_dir, found, expected, f"{fix} This process wrote nothing more.")

    def release(self) -> None:
        self._over.set()
        self._thread.join()
        with contextlib.suppress(OSError, UserError):
            self.check()
            self._shelf.remove(self._token)

    def _wait_for_end(self, token: int) -> None:
        """Returns when the holder of a token is gone, or gave no sign for long enough."""
        first, begun, told = self._shelf.sign(token), time.monotonic(), False
        while first is not None:
            owner = _owner(self._shelf.text(token))
            if owner is None or time.monotonic() - begun > owner.seconds:
                return
            if owner.boot and owner.boot == self._owner.boot:
                began, stopped = _process(owner.pid)
                if began != owner.began:
                    return  # it was killed
                if not stopped:
                    raise self._held(owner)
            now = self._shelf.sign(token)
            if now is not None and now != first:
                raise self._held(owner)
            first = now
            if not told:
                line = f"{self._run_dir}: held by {owner}; waiting for a sign of it"
                print(f"{line}, {owner.seconds:g} s at most", file=sys.stderr)
                told = True
            time.sleep(min(1.0, owner.seconds / _SIGNS / 4))

    def _held(self, owner: Owner) -> Held:
        return Held(
            self._run_dir, f"it held by {owner}", "a run directory that nobody holds",
            "Let that run end, or end it, or give this one a --run-dir of its own.",
        )  # fmt: skip

    def _give_signs(self) -> None:
        while not self._over.wait(self._owner.seconds / _SIGNS):
            with contextlib.suppress(OSError, UserError):  # the next one may pass
                self._shelf.give_sign(self._token)


class _Files:
    """Of a directory: a file for each token, whose time is the sign."""

    def __init__(self, run_dir: pathlib.Path):
        self._run_dir, self._folder = run_dir, run_dir / FOLDER

    def make(self) -> None:
        patiently(_make, self._folder)

    def newest(self) -> int | None:
        return _newest(self._folder)

    def create(self, token: int, content: str) -> bool:
        path = self._folder / str(token)
        mine = hidden(path)
        patiently(mine.write_text, content)
        sync(mine)
        try:
            patiently(os.link, mine, path)
        except FileExistsError:  # an interrupted call may have been done all the same
            return os.path.samefile(mine, path)
        except OSError as e:
            if e.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                raise
            return self._create_alone(path, content)
        finally:
            patiently(_unlink, mine)
        return True

    def _create_alone(self, path: pathlib.Path, content: str) -> bool:
        """The same on a file system without links."""
        try:
            with path.open("x") as file:
                file.write(content)
        except FileExistsError:
            return False
        return True

    def text(self, token: int) -> str:
        return _text(self._folder / str(token))

    def sign(self, token: int) -> int | None:
        return patiently(_time, self._folder / str(token))

    def give_sign(self, token: int) -> None:
        os.utime(self._folder / str(token))

    def remove(self, token: int) -> None:
        patiently(_unlink, self._folder / str(token))
        self._folder.rmdir()  # unless another has begun to take it

    def remove_below(self, token: int) -> None:
        for other in _tokens(self._folder):
            if other < token:
                patiently(_unlink, self._folder / str(other))
        sync(self._folder)
        sweep(self._run_dir)

    def is_gone(self) -> bool:
        return not self._run_dir.exists()


class _Objects:
    """Of an address: an object for each token, and one beside it that is the sign."""

    def __init__(self, address: str):
        self._folder = storage.join(address, FOLDER)

    def make(self) -> None:
        pass

    def newest(self) -> int | None:
        names = storage.listed(self._folder)
        return max((int(name) for name in names if _TOKEN.fullmatch(name)), default=None)

    def create(self, token: int, content: str) -> bool:
        return storage.put_new(storage.join(self._folder, str(token)), content.encode())

    def text(self, token: int) -> str:
        return (storage.read(storage.join(self._folder, str(token))) or b"").decode()

    def sign(self, token: int) -> object:
        if not self.text(token):
            return None
        return storage.read(storage.join(self._folder, f"{token}.sign")) or b""

    def give_sign(self, token: int) -> None:
        storage.put(storage.join(self._folder, f"{token}.sign"), uuid.uuid4().hex.encode())

    def remove(self, token: int) -> None:
        for name in (f"{token}.sign", str(token)):
            storage.remove_one(storage.join(self._folder, name))

    def remove_below(self, token: int) -> None:
        for name in storage.listed(self._folder):
            number = name.partition(".")[0]
            if _TOKEN.fullmatch(number) and int(number) < token:
                storage.remove_one(storage.join(self._folder, name))

    def is_gone(self) -> bool:
        return False


def _tokens(folder: pathlib.Path) -> list[int]:
    """Those in a folder; none where there is no folder."""
    try:
        names = patiently(os.listdir, folder)
    except FileNotFoundError:
        return []
    return [int(name) for name in names if _TOKEN.fullmatch(name)]


def _newest(folder: pathlib.Path) -> int | None:
    """The greatest token; None without one."""
    return max(_tokens(folder), default=None)


def _make(path: pathlib.Path) -> None:
    path.mkdir(exist_ok=True)


def _unlink(path: pathlib.Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except IsADirectoryError:  # no lease, whatever it is
        discard(path)


def _time(path: pathlib.Path) -> int | None:
    """When a file was written; None without one."""
    try:
        # Opened: what a server says now, not what was kept of it. A pipe is not waited for.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as e:
        if e.errno not in _NO_FILE:
            raise
        return 0
    try:
        return os.fstat(handle).st_mtime_ns
    finally:
        os.close(handle)


def _text(path: pathlib.Path) -> str:
    """ "" without a file. Of what is no plain file, and of other bytes, what no lease holds."""
    try:
        return patiently(read_plain, path, _MOST_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as e:
        if e.errno not in _NO_FILE:
            raise
        return "no file"


def _owner(text: str) -> Owner | None:
    """The owner that a lease names; None of one that was given back."""
    if not text:
        return None
    try:
        owner = Owner(**json.loads(text))
    except (ValueError, TypeError, RecursionError):  # of another release, or damaged
        return _unknown()
    fields = dataclasses.fields(Owner)
    whole = all(type(getattr(owner, field.name)) is field.type for field in fields)
    # No others can be waited for, or be told.
    sane = whole and 0 <= owner.seconds <= _DAY and 0 <= owner.since < 2**33
    return owner if sane else _unknown()


def _unknown() -> Owner:
    """Of a file that is no lease. No process has the number 0."""
    return Owner("a machine that is not known", 0, "", 0.0, SECONDS, "", 0, "")

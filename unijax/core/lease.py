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
"""

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator

import numpy as np

from unijax.core.errors import UserError
from unijax.core.files import guarded, hidden, patiently, sweep, sync, unwritable
from unijax.core.processes import is_lead, job_id, of_the_lead

FOLDER = "lease"
SECONDS = 60.0  # after which a holder that gives no sign has lost its lease
_SIGNS = 6  # in that time
_TOGETHER = 5.0  # seconds that the processes of a run wait between two words of process 0


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
        job = f", job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}, since {since}"


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

    Raises:
      Held: if another run holds it.
      Lost: by what is committed inside, where another run took it meanwhile.
      UserError: if the place cannot be written.
    """
    with contextlib.ExitStack() as at_end:
        error: Exception | None = None
        if is_lead():
            lease = _Lease(pathlib.Path(os.path.abspath(run_dir)), job_id(), seconds)
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


class _Lease:
    def __init__(self, run_dir: pathlib.Path, job: str, seconds: float):
        self._run_dir, self._folder = run_dir, run_dir / FOLDER
        self._owner = Owner(
            socket.gethostname(), os.getpid(), job, time.time(), seconds, _boot(),
            _process(os.getpid())[0], uuid.uuid4().hex,
        )  # fmt: skip
        self._content = json.dumps(dataclasses.asdict(self._owner)) + "\n"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._give_signs, name="lease", daemon=True)

    def take(self) -> None:
        try:
            while True:
                patiently(_make, self._folder)
                last = _newest(self._folder)
                if last is not None:
                    self._wait_for_end(last)
                self._token = 1 if last is None else last + 1
                self._path = self._folder / str(self._token)
                # The folder goes with a lease that is given back.
                with contextlib.suppress(FileNotFoundError):
                    if self._create():
                        break
            for name in patiently(os.listdir, self._folder):
                if name.isdigit() and int(name) < self._token:
                    patiently(_unlink, self._folder / name)
            sync(self._folder)
            sweep(self._run_dir)
            self._thread.start()
        except OSError as e:
            raise unwritable(self._folder, e) from e

    def check(self) -> None:
        """Raises Lost where another has taken the directory, or it is gone."""
        # Its own file is read: a network file system may list the folder as it was a minute ago.
        if _text(self._path) == self._content and _newest(self._folder) == self._token:
            return
        found = "its lease removed" if self._run_dir.exists() else "no such directory"
        expected, fix = "the run directory as it was", "It was moved or removed meanwhile."
        with contextlib.suppress(OSError, ValueError, TypeError):
            newest = _newest(self._folder)
            if newest is not None:
                found = f"it taken over by {_read(self._folder / str(newest))}"
                expected = "to hold it still: this process gave no sign for a time"
                fix = "That one goes on from the last checkpoint; end one of them."
        raise Lost(str(self._run_dir), found, expected, f"{fix} This process wrote nothing more.")

    def release(self) -> None:
        self._over.set()
        self._thread.join()
        with contextlib.suppress(OSError, Lost):
            self.check()
            patiently(_unlink, self._path)
            self._folder.rmdir()  # unless another has begun to take it

    def _create(self) -> bool:
        """Whether the token is ours. The file appears with its content, or not at all."""
        mine = hidden(self._path)
        patiently(mine.write_text, self._content)
        sync(mine)
        try:
            patiently(os.link, mine, self._path)
        except FileExistsError:  # an interrupted call may have been done all the same
            return os.path.samefile(mine, self._path)
        except OSError as e:
            if e.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                raise
            return self._create_alone()
        finally:
            patiently(_unlink, mine)
        return True

    def _create_alone(self) -> bool:
        """The same on a file system without links."""
        try:
            with self._path.open("x") as file:
                file.write(self._content)
        except FileExistsError:
            return False
        return True

    def _wait_for_end(self, token: int) -> None:
        """Returns when the holder of a token is gone, or gave no sign for long enough."""
        path = self._folder / str(token)
        first, begun, told = patiently(_sign, path), time.monotonic(), False
        while first is not None:
            owner = _read(path)
            if owner is None or time.monotonic() - begun > owner.seconds:
                return
            if owner.boot and owner.boot == self._owner.boot:
                began, stopped = _process(owner.pid)
                if began != owner.began:
                    return  # it was killed
                if not stopped:
                    raise self._held(owner)
            now = patiently(_sign, path)
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
            str(self._run_dir), f"it held by {owner}", "a run directory that nobody holds",
            "Let that run end, or end it, or give this one a --run-dir of its own.",
        )  # fmt: skip

    def _give_signs(self) -> None:
        while not self._over.wait(self._owner.seconds / _SIGNS):
            with contextlib.suppress(OSError):  # the next one may pass
                os.utime(self._path)


def _newest(folder: pathlib.Path) -> int | None:
    """The greatest token; None without one."""
    try:
        tokens = [int(name) for name in patiently(os.listdir, folder) if name.isdigit()]
    except FileNotFoundError:
        return None
    return max(tokens, default=None)


def _make(path: pathlib.Path) -> None:
    path.mkdir(exist_ok=True)


def _unlink(path: pathlib.Path) -> None:
    path.unlink(missing_ok=True)


def _sign(path: pathlib.Path) -> int | None:
    """Changes with every sign that a holder gives; None without a file."""
    try:
        with path.open("rb") as file:  # what a server says now, not what was kept of it
            about = os.fstat(file.fileno())
    except FileNotFoundError:
        return None
    return about.st_mtime_ns


def _text(path: pathlib.Path) -> str:
    """ "" without a file."""
    try:
        return patiently(path.read_text)
    except FileNotFoundError:
        return ""


def _read(path: pathlib.Path) -> Owner | None:
    """The owner that a lease names; None of one that was given back."""
    text = _text(path)
    try:
        return Owner(**json.loads(text)) if text else None
    except (ValueError, TypeError):  # of another release, or damaged
        return Owner("a machine", 0, "", path.stat().st_mtime, SECONDS, "", 0, "")

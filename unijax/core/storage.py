"""Objects in buckets, and files beside them: how each of the two is written whole and read.

A file system renames: what has its name is whole (`core.files`). A bucket does not. There one
object appears whole or not at all, and may be put on the condition that there is none of its name,
or that it is still the one that was read. So many objects are one thing by a marker that is put
last: `_COMPLETE`, the list of them. `_BEGUN`, which is put first, tells what was left half done
from data that others put there without markers.

Addresses are those of fsspec: `gs://bucket/path` by gcsfs, `s3://bucket/path` by s3fs, with the
credentials and endpoints that these find in their environment.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from unijax.core.errors import Unwritable, UserError, copied
from unijax.core.files import atomic_directory, discard, writable_directory, write_file
from unijax.core.paths import cache_dir, is_address

COMPLETE, BEGUN = "_COMPLETE", "_BEGUN"
COMMITTED = "commit_success.txt"  # the marker of a checkpoint, as Orbax calls it
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "memory": "fsspec"}
_CHANGES = ("ETag", "etag", "generation", "md5Hash")
_COPIES = 2  # of one address, that stay
_LISTED = "listed.json"  # of a fetched folder: what was there when it was fetched


def normal(address: str | os.PathLike) -> str:
    """The address with two strokes behind its scheme and none at its end."""
    scheme, _, rest = os.fspath(address).partition(":")
    return f"{scheme}://{rest.strip('/')}"


def join(address: str, *names: str) -> str:
    return "/".join([address.rstrip("/"), *names])


def _system(address: str) -> Any:
    """The file system of fsspec that reads an address.

    Raises:
      UserError: for a scheme that is not known, or whose package is not installed.
    """
    scheme = address.partition(":")[0]
    if scheme not in _PACKAGES:
        known = ", ".join(f"{name}://" for name in _PACKAGES if name != "memory")
        raise UserError(
            address, f"an address of {scheme}", f"a path, or one of {known}", "Copy it."
        )
    try:
        import fsspec

        return fsspec.filesystem(scheme)
    except ImportError as e:
        raise UserError(
            address, f"no package that reads it ({e})", f"{_PACKAGES[scheme]}",
            "pip install 'unijax[buckets]'",
        ) from e  # fmt: skip


@contextlib.contextmanager
def _told(address: str, puts: bool = False) -> Iterator[None]:
    """What a bucket refuses, told by its address.

    Args:
      puts: an object, for which there is no place only where there is no bucket: Google's storage
        tells that as it tells no object.
    """
    try:
        yield
    except (UserError, FileExistsError):
        raise
    except FileNotFoundError as e:
        found, expected = "nothing there", "an object, or some below it"
        if puts or "bucket does not exist" in str(e):
            found, expected = "no such bucket", "one that there is"
        raise UserError(address, found, expected, "Correct it.") from e
    except PermissionError as e:
        raise UserError(
            address, f"no permission ({e})", "credentials that may", "See the bucket's rights."
        ) from e
    except Exception as e:
        first = (str(e) or type(e).__name__).splitlines()[0][:200]
        raise Unwritable(
            address, f"a bucket that cannot be reached ({first})", "one that can",
            "Look at credentials, endpoint and network; repeat.",
        ) from e  # fmt: skip


def read(address: str) -> bytes | None:
    """The content of an object; None where there is none."""
    system = _system(address)
    with _told(address):
        try:
            return system.cat_file(address)
        except FileNotFoundError:
            return None


def put(address: str, content: bytes) -> None:
    """Writes an object, whole, in place of the one that is there."""
    with _told(address, puts=True):
        _system(address).pipe_file(address, content)


def put_new(address: str, content: bytes) -> bool:
    """Writes an object where there is none; whether there was none, as the bucket tells."""
    with _told(address, puts=True):
        try:
            _system(address).pipe_file(address, content, mode="create")
        except FileExistsError:
            return False
        except Exception as e:
            if re.search("PreconditionFailed|412|ConditionalRequestConflict|409", str(e)):
                return False
            raise
    return True


def remove_one(address: str) -> None:
    """Removes an object, if there is one."""
    with _told(address), contextlib.suppress(FileNotFoundError):
        _system(address).rm_file(address)


def remove(address: str) -> None:
    """Removes all below an address; the marker goes first, so that nobody reads half."""
    system = _system(address)
    for marker in (COMPLETE, COMMITTED):
        remove_one(join(address, marker))
    with _told(address), contextlib.suppress(FileNotFoundError):
        system.rm(address, recursive=True)


def listed(address: str) -> dict[str, list]:
    """Every object below an address, by its name from there: its bytes, and what tells a change."""
    system = _system(address)
    system.invalidate_cache()
    with _told(address):
        found = system.find(address, detail=True)
    root = system._strip_protocol(address).rstrip("/")
    return {
        name[len(root) + 1 :]: _about(about)
        for name, about in found.items()
        if name.startswith(f"{root}/") and about["type"] == "file"
    }


def _about(info: dict) -> list:
    """Bytes of an object, and what tells a change: S3 and Google's storage spell it otherwise."""
    return [info["size"], *(str(info[key]) for key in _CHANGES if info.get(key))]


def folders(address: str) -> list[str]:
    """Names right below an address under which there are objects."""
    return sorted({name.split("/")[0] for name in listed(address) if "/" in name})


def download(address: str, folder: pathlib.Path, leave: Callable[[str], bool]) -> None:
    """Fetches the objects below an address into a folder, but for names that are left."""
    system = _system(address)
    for name in listed(address):
        if not leave(name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with _told(address):
                system.get_file(join(address, name), str(folder / name))


@contextlib.contextmanager
def some_of(place: str | os.PathLike, patterns: Sequence[str]) -> Iterator[pathlib.Path]:
    """Yields a directory, or a copy for a while of what below an address has such a name."""
    if not is_address(place):
        yield pathlib.Path(place)
        return
    address = normal(place)
    system = _system(address)
    system.invalidate_cache()
    root = system._strip_protocol(address).rstrip("/")
    with tempfile.TemporaryDirectory(prefix="unijax-") as temporary:
        folder = pathlib.Path(temporary) / address.rpartition("/")[2]
        folder.mkdir()
        copied(str(folder), address)
        with _told(address):
            for path in (p for pattern in patterns for p in system.glob(f"{root}/{pattern}")):
                file = folder / path[len(root) + 1 :]
                file.parent.mkdir(parents=True, exist_ok=True)
                system.get_file(path, str(file))
        yield folder


def names_in(place: str | os.PathLike) -> set[str]:
    """Of the files of a folder, or of what is right below an address."""
    if is_address(place):
        return set(listed(normal(place)))
    return {path.name for path in pathlib.Path(place).iterdir()}


def writable(place: str | os.PathLike) -> None:
    """Makes a folder that can be written where it is missing; an address has none to make."""
    if not is_address(place):
        writable_directory(place)


def cache_of(address: str | os.PathLike, kind: str) -> pathlib.Path:
    """A folder of this machine for what belongs to an address."""
    return cache_dir() / kind / hashlib.sha256(normal(address).encode()).hexdigest()[:12]


def below(place: str | os.PathLike, *names: str) -> str | pathlib.Path:
    """A name in a folder, or below an address."""
    return join(normal(place), *names) if is_address(place) else pathlib.Path(place, *names)


def read_in(place: str | os.PathLike, name: str) -> bytes | None:
    """A file of a folder, or an object below an address; None if there is none."""
    if is_address(place):
        return read(join(normal(place), name))
    try:
        return pathlib.Path(place, name).read_bytes()
    except FileNotFoundError:
        return None


def write_in(place: str | os.PathLike, name: str, content: bytes) -> None:
    """A file of a folder, or an object below an address, whole or not at all."""
    if is_address(place):
        put(join(normal(place), name), content)
    else:
        write_file(pathlib.Path(place) / name, content)


def copy(address: str, to: str) -> None:
    """Copies all below an address to another one, over what is there. A marker comes last."""
    system = _system(address)
    with _told(address):
        for name in sorted(listed(address), key=lambda n: (n.endswith(COMMITTED), n)):
            system.copy(join(address, name), join(to, name))


def move(address: str, to: str) -> None:
    """Gives all below an address another one, as `copy` does."""
    copy(address, to)
    remove(address)


def upload(folder: pathlib.Path, address: str) -> list[str]:
    """Puts every file of a folder below an address, over what is there; returns the names."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    system = _system(address)
    with _told(address):
        for name in names:
            system.put_file(str(folder / name), join(address, name))
    return names


@contextlib.contextmanager
def published(address: str) -> Iterator[pathlib.Path]:
    """Yields a folder of this machine whose files are put below an address, as one thing.

    Raises:
      UserError: where something is there already, or the bucket refuses.
    """
    there = listed(address)
    if COMPLETE in there or (there and BEGUN not in there):
        raise UserError(
            address, "something that exists already", "an address with nothing below",
            "Choose another or remove this one first.",
        )  # fmt: skip
    for name in there:  # what was left half done
        remove_one(join(address, name))
    with tempfile.TemporaryDirectory(prefix="unijax-") as temporary:
        folder = pathlib.Path(temporary) / address.rpartition("/")[2]
        folder.mkdir()
        yield folder
        put(join(address, BEGUN), b"")
        names = upload(folder, address)
        if not put_new(join(address, COMPLETE), json.dumps(names).encode()):
            raise UserError(
                address,
                "what another process has put there meanwhile",
                "to be alone",
                "Look at it.",
            )
        remove_one(join(address, BEGUN))


def whole_directory(place: str | os.PathLike) -> contextlib.AbstractContextManager[pathlib.Path]:
    """Yields a folder that stands at a path, or below an address, once it is whole."""
    return published(normal(place)) if is_address(place) else atomic_directory(place)


def fetched(address: str, beside: Collection[str] = ()) -> pathlib.Path:
    """A copy on this machine of an object, or of all below an address. Made once for what is there.

    Copies are kept in `cache_dir()/fetched`, which may be removed.

    Args:
      beside: ends of names: of what lies where the object does, and below, that is copied with it.

    Raises:
      UserError: where there is nothing, or what was left half done.
    """
    system = _system(address)
    system.invalidate_cache()
    with _told(address):
        is_one = system.isfile(address)
        about = _about(system.info(address)) if is_one else []
    if not is_one:
        return _fetched(address, _whole(address))
    root, _, name = address.rpartition("/")
    wanted = {
        other: found for other, found in (listed(root) if beside else {}).items()
        if os.path.splitext(other)[1].lower() in beside
    }  # fmt: skip
    if not wanted:
        return _fetched(address, {"": about})
    return _fetched(root, wanted | {name: about}) / name


def _whole(address: str) -> dict[str, list]:
    there = listed(address)
    if not there:
        raise UserError(address, "nothing there", "an object, or some below it", "Correct it.")
    if BEGUN in there and COMPLETE not in there:
        raise UserError(
            address,
            "what was left half done",
            "all of it",
            "Write it again: the same command does.",
        )
    if COMPLETE in there:
        names = json.loads(read(join(address, COMPLETE)) or b"[]")
        if missing := [name for name in names if name not in there]:
            found = f"{len(missing)} objects missing ({missing[0]}, ...)"
            raise UserError(address, found, "all that were written", "Write them again.")
    return there


# Of a run directory, what changes while it trains and nobody reads of a copy.
_NOT_READ = (
    "checkpoints/", "cache/", "damaged/", "before/", "lease/", "tensorboard/", "samples/",
    "status.", "events.", "attempts.",
)  # fmt: skip


def run_fetched(address: str) -> pathlib.Path:
    """A copy of a run directory: its newest whole checkpoint, without the optimizer's state."""
    there = listed(address)
    steps = {
        int(name.split("/")[1]) for name in there
        if re.fullmatch(rf"checkpoints/\d+/{COMMITTED}", name)
    }  # fmt: skip
    newest = f"checkpoints/{max(steps, default=-1)}/"
    wanted = {
        name: about
        for name, about in there.items()
        if not name.startswith(_NOT_READ)
        or (name.startswith(newest) and not name.startswith(f"{newest}optimizer/"))
    }
    if not steps:
        raise UserError(
            address, "no checkpoint", "a run directory that holds checkpoints/<step>/",
            "Give the one that `unijax train` or `unijax import` wrote.",
        )  # fmt: skip
    return _fetched(address, wanted)


def run_here(place: str | os.PathLike) -> pathlib.Path:
    """The run directory, or the copy on this machine of one at an address, to be read."""
    return run_fetched(normal(place)) if is_address(place) else pathlib.Path(place)


def _fetched(address: str, there: dict[str, list]) -> pathlib.Path:
    mark = hashlib.sha256(json.dumps([address, sorted(there.items())]).encode()).hexdigest()[:16]
    copies = cache_of(address, "fetched")
    folder = copies / mark
    place = folder / address.rpartition("/")[2]
    copied(str(place), address)
    if not (folder / _LISTED).exists():
        writable_directory(copies)
        discard(folder)
        system = _system(address)
        size = sum(about[0] for about in there.values())
        print(f"fetching {address}: {len(there)} objects, {size / 1e6:,.1f} MB", file=sys.stderr)
        with atomic_directory(folder) as temporary, _told(address):
            for name in there:
                file = temporary / place.name / name if name else temporary / place.name
                file.parent.mkdir(parents=True, exist_ok=True)
                system.get_file(join(address, name) if name else address, str(file))
            write_file(temporary / _LISTED, json.dumps(there))
        _remove_older(copies)
    return place


def _remove_older(copies: pathlib.Path) -> None:
    """Leaves the newest copies of an address: somebody may still read the one before."""
    whole = [path.parent for path in copies.glob(f"*/{_LISTED}")]
    for path in sorted(whole, key=lambda p: p.stat().st_mtime)[:-_COPIES]:
        discard(path)


def here(place: str | os.PathLike, beside: Collection[str] = ()) -> pathlib.Path:
    """The path, or the copy on this machine of what is at an address (`fetched`), to be read."""
    return fetched(normal(place), beside) if is_address(place) else pathlib.Path(place)

"""Checkpoints: asynchronous, atomic, and readable in parts.

A run directory holds `checkpoints/<step>/` with four items: `params` (the whole tree, trained and
frozen together, so that any reader can use it alone), `ema` where one is kept, `optimizer`, and
`run` (JSON: schema, stage, resolved config, state of the data iterator, checksums of the arrays,
and a digest of all that). A run that trains on top of another (`train.base`) leaves out of `params`
what that one holds.
"""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from unijax.core import heap, storage, tree
from unijax.core.errors import Unwritable, UserError
from unijax.core.files import (
    OF_DISK,
    TRANSIENT,
    check_allowed,
    discard,
    patiently,
    sweep,
    sync,
    writable_directory,
)
from unijax.core.paths import is_address
from unijax.core.processes import all_agree, is_lead, of_the_lead, wait_for_all
from unijax.core.system import Params
from unijax.train import base as base_lib
from unijax.train import desk
from unijax.train.checksum import checksums
from unijax.train.lora import alone, folded, is_adapter, without
from unijax.train.orbax_manager import Manager, Marked, Place, Temporary
from unijax.train.schema import READ, SCHEMA, upgraded
from unijax.train.stage import Rule
from unijax.train.state import TrainState, merge, split

FOLDER = "checkpoints"
DAMAGED = "damaged"  # beside it: what could not be restored

_PAUSES = (0.1, 0.5, 2.0)  # seconds, before files are read again that could not be for a moment

# How a disk that cannot be written is told, in an errno or in words of one of several libraries.
_DISK = (*OF_DISK, errno.EACCES, errno.EPERM, errno.EFBIG)
_ROOM = 2**20  # bytes, of what stands in a checkpoint beside arrays


def abstract(x: Any) -> Any:
    """Shapes, dtypes and shardings of a tree of arrays."""
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=getattr(a, "sharding", None)), x
    )


class Damaged(UserError):
    """Files of a checkpoint that cannot be read, or do not hold what was saved."""


class NotSaved(Unwritable):
    """The place of the checkpoints cannot be written. The earlier ones are as they were."""


class Checkpoints:
    """The checkpoints of one run directory, for writing and resuming."""

    def __init__(
        self, run_dir: str | pathlib.Path, keep: int, keep_every: int = 0, whole: bool = True
    ):
        """`keep` newest ones stay, and the multiples of `keep_every` for good; 0 for none.

        Unless they are to be `whole` they lack what is frozen, but for adapters (`train.base`).
        """
        self._whole = whole
        self._run_dir = pathlib.Path(run_dir)
        self._directory = checkpoints_of(desk.home(run_dir))
        self._in_bucket = is_address(self._directory)
        if not self._in_bucket:
            writable_directory(self._directory)
        mark = int(of_the_lead(np.asarray(secrets.randbits(31), np.int32)))
        self._options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            keep_period=keep_every or None,
            enable_async_checkpointing=True,
            temporary_path_class=Marked if self._in_bucket else Temporary.of(f"{mark:08x}"),
            # Where making them fails in the background, Orbax's threads wait for minutes.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        )
        self._remove_halves()
        self._manager = self._new_manager()

    def latest(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState, run: dict, data_state: dict) -> None:
        """Copies the state off the device, then writes in the background.

        Args:
          run: JSON description of the run: stage and resolved config.
          data_state: JSON state of the data iterator, as of the last batch that was consumed.

        Raises:
          NotSaved: if it cannot be written. What fails in the background `wait` raises.
        """
        arrays = {"params": merge(state.params, state.frozen), "optimizer": state.opt_state}
        if state.ema is not None:
            arrays["ema"] = state.ema
        known = {"data": data_state, "checksums": checksums(arrays)}
        if not self._whole:
            arrays["params"] = merge(state.params, alone(state.frozen))
        self._check_room(sum(x.nbytes for x in jax.tree.leaves(arrays)))
        items = {name: ocp.args.StandardSave(part) for name, part in arrays.items()}
        items["run"] = ocp.args.JsonSave(signed(known | run))
        desk.put(self._run_dir)  # the log up to it comes first
        with self._writing():
            self._manager.save(int(state.step), args=ocp.args.Composite(**items))

    def restore(
        self,
        like: TrainState,
        rules: dict[str, Rule],
        check: Callable[[dict], None],
        tell: Callable[[int, Damaged], None],
        frozen: Params | None = None,
    ) -> tuple[TrainState, dict]:
        """The newest checkpoint that is whole, in the shapes, dtypes and shardings of `like`.

        Newer ones, which are damaged, are moved to `damaged/` beside `checkpoints/`.

        Args:
          check: takes the description of the run, ahead of the arrays, and may raise.
          tell: takes the step of a damaged checkpoint, and what is wrong with it.
          frozen: what the run froze, where its checkpoints lack that.

        Returns:
          The state and the description.

        Raises:
          Damaged: if none is whole; all stay where they are.
        """
        damaged: dict[int, Damaged] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                found = self._read(step, like, rules, check, frozen or {})
                break
            except Damaged as e:
                damaged[step] = e
        else:
            raise damaged[max(damaged)]
        for step, error in damaged.items():
            tell(step, error)
        if damaged:
            self._set_aside(list(damaged))
        return found

    def _read(
        self,
        step: int,
        like: TrainState,
        rules: dict[str, Rule],
        check: Callable[[dict], None],
        frozen: Params,
    ) -> tuple[TrainState, dict]:
        directory = self._directory / str(step)
        kept = like.frozen if self._whole else alone(like.frozen)
        wanted = {"params": merge(like.params, kept), "optimizer": like.opt_state}
        if like.ema is not None:
            wanted["ema"] = like.ema
        saved, got, error = {}, {}, None
        for tries, pause in enumerate((*_PAUSES, None)):
            try:
                saved, got, error = *self._read_files(directory, wanted, check), None
            except Damaged as e:
                error = e
            # What is no error of a moment by its number may be one: it is read twice at least.
            if pause is None or error is None or (tries and not _is_away(error)):
                break
            time.sleep(pause)
        # One process alone may have failed: till here none has waited for another, as Orbax's
        # manager and checkpointers would.
        if not all_agree(error is None or not _is_away(error)):
            raise _away(directory, error)
        if not all_agree(error is None):
            raise error or _damaged(directory, "files that another process cannot read")
        sums = saved.get("checksums", {})  # `train.streaming` writes none
        if not self._whole:
            below = tree.flatten(without(frozen))
            base_lib.check(str(directory), saved, below)
            got["params"] = merge(tree.unflatten(below), got["params"])
        for name, found in checksums({name: got[name] for name in wanted}).items():
            if sums.get(name, found) != found:
                raise _damaged(directory, f"other values than were saved in {name}")
        params, frozen = split(got["params"], rules)
        state = TrainState(
            step=jax.device_put(np.int32(step), like.step.sharding),
            params=params,
            frozen=frozen,
            opt_state=got["optimizer"],
            ema=got["ema"] if like.ema is not None else None,
        )
        return state, saved

    def _read_files(
        self, directory: Place, wanted: dict[str, Any], check: Callable[[dict], None]
    ) -> tuple[dict, dict[str, Any]]:
        """The description, and the arrays by item."""
        saved, got = read_run(directory), {}
        check(saved)
        with _readable(directory), contextlib.closing(ocp.StandardCheckpointHandler()) as reader:
            for name, part in wanted.items():
                args = ocp.args.StandardRestore(abstract(part))
                got[name] = reader.restore(directory / name, args=args)
        return saved, got

    def _set_aside(self, steps: list[int]) -> None:
        self._manager.close()
        if is_lead():
            aside = self._directory.parent / DAMAGED
            check_allowed(aside)
            if self._in_bucket:
                for step in steps:
                    source, to = self._directory / str(step), aside / str(step)
                    storage.move(storage.normal(source), storage.normal(to))
        if is_lead() and not self._in_bucket:
            aside.mkdir(exist_ok=True)
            for step in steps:
                discard(aside / str(step))
                os.replace(self._directory / str(step), aside / str(step))
            sync(aside)
            sync(self._directory)
        wait_for_all("damaged checkpoints are set aside")
        self._manager = self._new_manager()

    def wait(self) -> None:
        """Blocks until what was saved is on disk.

        Raises:
          NotSaved: if it could not be written.
        """
        with self._writing(behind=True):
            self._manager.wait_until_finished()
        heap.give_back()

    def close(self) -> None:
        """Waits, and removes what a failed save left."""
        with contextlib.suppress(NotSaved), self._writing(behind=True):
            self._manager.close()
        with contextlib.suppress(UserError):  # of a bucket; the next run sweeps
            self._remove_halves()

    def _remove_halves(self) -> None:
        if is_lead() and self._in_bucket:
            place = storage.normal(self._directory)
            whole = set(map(str, _marked(self._directory)))
            for name in storage.folders(place):
                if name not in whole:
                    check_allowed(self._directory)
                    storage.remove(storage.join(place, name))
        elif is_lead():
            for half in self._directory.glob("*.orbax-checkpoint-tmp"):
                discard(half)
            sweep(self._directory)

    def _check_room(self, nbytes: int) -> None:
        """Process 0 looks and all are told, so that none waits for one that could not write."""
        found = ""
        if is_lead() and not self._in_bucket:  # a bucket is never full
            try:
                writable_directory(self._directory)
                free = shutil.disk_usage(self._directory).free
                if free < nbytes + _ROOM:
                    found = f"{free / 1e6:,.0f} MB free for {(nbytes + _ROOM) / 1e6:,.0f}"
            except (UserError, OSError) as e:
                found = e.found if isinstance(e, UserError) else str(e)
        if not all_agree(not found):
            raise self._not_saved(found or "a place that process 0 cannot write")

    @contextlib.contextmanager
    def _writing(self, behind: bool = False) -> Iterator[None]:
        """A disk that cannot be written, told as one.

        One process goes on, with a new manager; several end, as the others wait in what one left.

        Args:
          behind: what runs in the background of a save, which does nothing but write and read
            again: all that fails there is of the disk. Python makes a TypeError of EAGAIN.
        """
        try:
            yield
        except Exception as e:
            with contextlib.suppress(OSError):
                check_allowed(self._directory)  # one that another run holds is not a full disk
            # Orbax takes what it could not look at for missing, and then names the place alone.
            # Tensorstore tells what a bucket refuses as a ValueError in words of its own.
            of_bucket = self._in_bucket and isinstance(e, ValueError | RuntimeError)
            of_disk = _is_of_disk(e) or of_bucket or str(self._directory) in str(e)
            if not (of_disk or behind):
                raise
            several = jax.process_count() > 1
            if not several:
                self._manager.abandon()
            self._remove_halves()
            found = (str(e) or type(e).__name__).splitlines()[0][:200]
            told = self._not_saved(found if of_disk else f"{type(e).__name__}: {found}")
            if several:
                raise Unwritable(told.where, told.found, told.expected, told.fix) from e
            self._manager = self._new_manager()
            raise told from e

    def _new_manager(self) -> Manager:
        return patiently(lambda: Manager(self._directory, options=self._options))

    def _not_saved(self, found: str) -> NotSaved:
        return NotSaved(
            str(self._directory),
            f"no way to write a checkpoint ({found})",
            "a writable place with room for loop.keep + 1 checkpoints",
            f"Free space and repeat the command: it resumes from step {self.latest() or 0}.",
        )


def _is_of_disk(error: BaseException | None) -> bool:
    """By its kind or its words, or those of what caused it: a save does nothing but write."""
    if error is None:
        return False
    said = str(error)
    of_disk = isinstance(error, OSError) or any(
        words in said for words in (*map(os.strerror, _DISK), "os_error_code=", "quota")
    )
    return of_disk or _is_of_disk(error.__cause__)


def _is_away(error: BaseException | None) -> bool:
    """Whether files could not be read for now, or by this user: nothing says that they are damaged.

    Tensorstore tells the number of an error in its words.
    """
    if error is None:
        return False
    told = re.search(r"os_error_code='(\d+)'", str(error))
    number = int(told[1]) if told else getattr(error, "errno", None)
    return number in (*TRANSIENT, errno.EACCES, errno.EPERM) or _is_away(error.__cause__)


def _away(directory: Place, error: Damaged | None) -> Unwritable:
    found = error.found if error is not None else "files that another process cannot read for now"
    return Unwritable(
        str(directory), found, "files that can be read",
        "Nothing was moved. Repeat the command once they can be.",
    )  # fmt: skip


def checkpoints_of(run_dir: str | pathlib.Path) -> Place:
    """The folder of a run's checkpoints, or etils' path of it where that is an address."""
    if is_address(run_dir):
        return epath.Path(storage.join(storage.normal(run_dir), FOLDER))
    return pathlib.Path(run_dir).absolute() / FOLDER


def _marked(folder: Place) -> list[int]:
    """Steps below an address whose marker is there."""
    names = storage.listed(storage.normal(folder))
    of = (name.split("/") for name in names if name.endswith(f"/{storage.COMMITTED}"))
    return [int(parts[0]) for parts in of if len(parts) == 2 and parts[0].isdigit()]


def whole_steps(run_dir: str | pathlib.Path) -> list[int]:
    """Steps of the checkpoints of a run directory that are on disk whole; none without a folder."""
    folder = checkpoints_of(desk.home(run_dir))
    if is_address(folder):
        return _marked(folder)
    return ocp.utils.checkpoint_steps(folder) if folder.is_dir() else []


def step_directory(path: str | Place) -> Place:
    """Of a run directory, of its `checkpoints`, or of one step in it: the newest step's directory.

    Raises:
      UserError: if there is none.
    """
    if is_address(path):
        return _step_in_bucket(storage.normal(path))
    path = pathlib.Path(path).absolute()
    step = None
    if path.name.isdigit() and path.parent.name == FOLDER:
        path, step = path.parent, int(path.name)
    elif (path / FOLDER).is_dir():
        path = path / FOLDER
    whole = whole_steps(path.parent) if path.name == FOLDER else []
    if not whole or (step is not None and step not in whole):
        raise UserError(
            str(path if step is None else path / str(step)),
            f"no such checkpoint (steps here: {sorted(whole)})" if whole else "no checkpoint",
            "a run directory that holds checkpoints/<step>/",
            "Give the directory that `unijax train` or `unijax import` wrote.",
        )
    return path / str(max(whole) if step is None else step)


def _step_in_bucket(address: str) -> Place:
    root, _, step = address.partition(f"/{FOLDER}/")
    folder = checkpoints_of(root)
    steps = _marked(folder)
    if not steps or (step and int(step) not in steps):
        raise UserError(
            address, f"no such checkpoint (steps here: {sorted(steps)})" if steps else
            "no checkpoint", "a run directory that holds checkpoints/<step>/",
            "Give the address that `unijax train` wrote to.",
        )  # fmt: skip
    return folder / (step or str(max(steps)))


def signed(run: dict) -> dict:
    """The description as it is saved: with its schema, and a digest of all of it."""
    run = json.loads(json.dumps({"schema": SCHEMA} | run))
    return run | {"digest": digest_of(run)}


def digest_of(run: dict) -> str:
    """Of a description as `read_run` gives it, the sums of all arrays among it."""
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()


def read_run(path: str | Place) -> dict:
    """The JSON description of the newest (or the named) checkpoint, with its `step`.

    Raises:
      UserError: if there is none, it is damaged, or it was written by another schema.
    """
    directory = step_directory(path)
    with _readable(directory), contextlib.closing(ocp.JsonCheckpointHandler()) as reader:
        run = reader.restore(directory / "run", ocp.args.JsonRestore())
        digest = run.pop("digest", None)
    of_another = digest is None and run.get("schema") not in READ  # the first had no digest
    if not of_another and digest != digest_of(run):
        raise _damaged(directory, "another description of the run than was saved")
    if run["schema"] not in READ:
        raise UserError(
            str(directory),
            f"checkpoint schema {run['schema']}",
            f"schema {' or '.join(map(str, READ))}",
            "Use the release of unijax that wrote it, or export and import it again.",
        )
    return upgraded(run) | {"step": int(directory.name)}


def read_params(path: str | Place, like: Params | None = None) -> Params:
    """The parameters of a checkpoint: the moving average where one was kept, adapters folded in.

    Args:
      path: a run directory, or one step in it.
      like: abstract nested tree without adapters; when given, paths and shapes must agree and the
        result takes its dtypes and shardings. Without it the arrays come as stored, on the default
        device.

    Raises:
      UserError: if there is no checkpoint, it is damaged, or of another size or system.
    """
    directory = step_directory(path)
    run = read_run(directory)
    below: dict[str, jax.Array] = {}
    if (base := base_lib.of(run, directory)) is not None:
        below = tree.flatten(read_params(base, like))
    with _readable(directory), ocp.StandardCheckpointer() as reader:
        stored = tree.flatten(_stored_shapes(reader, directory / "params"))
        target = stored
        if like is not None:
            wanted = tree.flatten(abstract(like))
            plain = {p: a.shape for p, a in stored.items() if not is_adapter(p)}
            plain = {p: a.shape for p, a in below.items()} | plain
            check_same(str(path), plain, {p: a.shape for p, a in wanted.items()})
            target = stored | {p: a for p, a in wanted.items() if p in stored}
        below = {p: x for p, x in below.items() if p not in stored}
        base_lib.check(str(directory), run, below)
        params = reader.restore(directory / "params", tree.unflatten(target))
        if (directory / "ema").exists():
            averaged = tree.flatten(_stored_shapes(reader, directory / "ema"))
            ema = {p: target[p] for p in averaged}
            params = merge(params, reader.restore(directory / "ema", tree.unflatten(ema)))
    return tree.unflatten(folded(below | tree.flatten(params)))


@contextlib.contextmanager
def _readable(directory: Place) -> Iterator[None]:
    """What is wrong with files on disk, which comes in errors of several libraries, told as one."""
    try:
        yield
    except UserError:
        raise
    except Exception as e:
        first = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise _damaged(directory, f"a checkpoint that cannot be read ({first[:200]})") from e


def _damaged(directory: Place, found: str) -> Damaged:
    return Damaged(
        str(directory),
        found,
        "the files as they were written",
        "Restore them, or remove this step's directory to go on from the one before.",
    )


def _stored_shapes(reader: ocp.StandardCheckpointer, item: Place) -> Params:
    """Shapes and dtypes on disk, to be restored on the default device."""
    metadata = reader.metadata(item).item_metadata
    if metadata is None:
        raise ValueError(f"the list of arrays in {item.name}/ is damaged")
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda m: jax.ShapeDtypeStruct(tuple(m.shape), m.dtype, sharding=here), metadata.tree
    )


def check_same(where: str, found: dict[str, tuple], expected: dict[str, tuple]) -> None:
    """Raises UserError naming the first paths that are missing, unexpected or of other shape."""
    missing = sorted(expected.keys() - found.keys())
    extra = sorted(found.keys() - expected.keys())
    other = [
        f"{p} {found[p]} instead of {expected[p]}"
        for p in sorted(found.keys() & expected.keys())
        if tuple(found[p]) != tuple(expected[p])
    ]
    if not (missing or extra or other):
        return
    parts = []
    for name, items in (("missing", missing), ("unexpected", extra), ("of another shape", other)):
        if items:
            more = f" and {len(items) - 3} more" if len(items) > 3 else ""
            parts.append(f"{len(items)} parameters {name} ({', '.join(items[:3])}{more})")
    raise UserError(
        where,
        "; ".join(parts),
        f"the {len(expected)} parameters of this config's system and size",
        "Use the config that wrote the checkpoint, or a checkpoint of this config.",
    )

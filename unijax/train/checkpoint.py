"""Checkpoints: asynchronous, atomic, and readable in parts.

A run directory holds `checkpoints/<step>/` with four items: `params` (the whole tree, trained and
frozen together, so that any reader can use it alone), `ema` where one is kept, `optimizer`, and
`run` (JSON: schema, stage, resolved config, state of the data iterator).
"""

import contextlib
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from unijax.core import tree
from unijax.core.errors import UserError
from unijax.core.files import writable_directory
from unijax.core.system import Params
from unijax.train.stage import Rule
from unijax.train.state import TrainState, merge, split

SCHEMA = 1
FOLDER = "checkpoints"


def abstract(x: Any) -> Any:
    """Shapes, dtypes and shardings of a tree of arrays."""
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=getattr(a, "sharding", None)), x
    )


class Checkpoints:
    """The checkpoints of one run directory, for writing and resuming."""

    def __init__(self, run_dir: str | pathlib.Path, keep: int):
        """`keep` is the number of newest checkpoints that stay."""
        self._directory = writable_directory(pathlib.Path(run_dir).absolute() / FOLDER)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def latest(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState, run: dict, data_state: dict) -> None:
        """Copies the state off the device, then writes in the background.

        Args:
          run: JSON description of the run: stage and resolved config.
          data_state: JSON state of the data iterator, as of the last batch that was consumed.
        """
        items = {
            "params": ocp.args.StandardSave(merge(state.params, state.frozen)),
            "optimizer": ocp.args.StandardSave(state.opt_state),
            "run": ocp.args.JsonSave({"schema": SCHEMA, "data": data_state, **run}),
        }
        if state.ema is not None:
            items["ema"] = ocp.args.StandardSave(state.ema)
        with self._room():
            self._manager.save(int(state.step), args=ocp.args.Composite(**items))

    def read_run(self) -> dict:
        """The JSON description of the newest. See the function of the same name."""
        return read_run(self._directory / str(self.latest()))

    def restore(self, state: TrainState, rules: dict[str, Rule]) -> tuple[TrainState, dict]:
        """The newest checkpoint, in the shapes, dtypes and shardings of `state`; and `run`."""
        step = self.latest()
        items = {
            "params": ocp.args.StandardRestore(abstract(merge(state.params, state.frozen))),
            "optimizer": ocp.args.StandardRestore(abstract(state.opt_state)),
            "run": ocp.args.JsonRestore(),
        }
        if state.ema is not None:
            items["ema"] = ocp.args.StandardRestore(abstract(state.ema))
        with _readable(self._directory / str(step)):
            got = self._manager.restore(step, args=ocp.args.Composite(**items))
        params, frozen = split(got["params"], rules)
        state = TrainState(
            step=jax.device_put(np.int32(step), state.step.sharding),
            params=params,
            frozen=frozen,
            opt_state=got["optimizer"],
            ema=got["ema"] if state.ema is not None else None,
        )
        return state, got["run"]

    def wait(self) -> None:
        """Blocks until what was saved is on disk."""
        with self._room():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and removes what a failed save left."""
        try:
            with self._room():
                self._manager.close()
        finally:
            if jax.process_index() == 0:
                for half in self._directory.glob("*.orbax-checkpoint-tmp"):
                    shutil.rmtree(half, ignore_errors=True)

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        """A full disk, which comes in many errors of several libraries, told as one."""
        try:
            yield
        except Exception as e:
            if "No space left" not in str(e) and "quota" not in str(e):
                raise
            raise UserError(
                str(self._directory),
                "no space left on the disk for a checkpoint",
                "room for loop.keep + 1 checkpoints",
                f"Free space and repeat the command: it resumes from step {self.latest() or 0}.",
            ) from e


def step_directory(path: str | pathlib.Path) -> pathlib.Path:
    """Of a run directory, of its `checkpoints`, or of one step in it: the newest step's directory.

    Raises:
      UserError: if there is none.
    """
    path = pathlib.Path(path).absolute()
    step = None
    if path.name.isdigit() and path.parent.name == FOLDER:
        path, step = path.parent, int(path.name)
    elif (path / FOLDER).is_dir():
        path = path / FOLDER
    whole = ocp.utils.checkpoint_steps(path) if path.is_dir() and path.name == FOLDER else []
    if not whole or (step is not None and step not in whole):
        raise UserError(
            str(path if step is None else path / str(step)),
            f"no such checkpoint (steps here: {sorted(whole)})" if whole else "no checkpoint",
            "a run directory that holds checkpoints/<step>/",
            "Give the directory that `unijax train` or `unijax import` wrote.",
        )
    return path / str(max(whole) if step is None else step)


def read_run(path: str | pathlib.Path) -> dict:
    """The JSON description of the newest (or the named) checkpoint, with its `step`.

    Raises:
      UserError: if there is none, it is damaged, or it was written by another schema.
    """
    directory = step_directory(path)
    with _readable(directory), ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
        run = reader.restore(directory / "run")
    if run.get("schema") != SCHEMA:
        raise UserError(
            str(directory),
            f"checkpoint schema {run.get('schema')}",
            f"schema {SCHEMA}",
            "Use the release of unijax that wrote it, or export and import it again.",
        )
    return run | {"step": int(directory.name)}


def read_params(path: str | pathlib.Path, like: Params | None = None) -> Params:
    """The parameters of a checkpoint: the moving average where one was kept.

    Args:
      path: a run directory, or one step in it.
      like: abstract nested tree; when given, paths and shapes must agree and the result takes its
        dtypes and shardings. Without it the arrays come as stored, on the default device.

    Raises:
      UserError: if there is no checkpoint, it is damaged, or of another size or system.
    """
    directory = step_directory(path)
    with _readable(directory), ocp.StandardCheckpointer() as reader:
        stored = tree.flatten(_stored_shapes(reader, directory / "params"))
        if like is None:
            target = stored
        else:
            target = tree.flatten(abstract(like))
            check_same(
                str(path),
                {p: a.shape for p, a in stored.items()},
                {p: a.shape for p, a in target.items()},
            )
        params = reader.restore(directory / "params", tree.unflatten(target))
        if not (directory / "ema").exists():
            return params
        averaged = tree.flatten(_stored_shapes(reader, directory / "ema"))
        ema = reader.restore(directory / "ema", tree.unflatten({p: target[p] for p in averaged}))
    return merge(params, ema)


@contextlib.contextmanager
def _readable(directory: pathlib.Path) -> Iterator[None]:
    """What is wrong with files on disk, which comes in errors of several libraries, told as one."""
    try:
        yield
    except UserError:
        raise
    except Exception as e:
        first = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise UserError(
            str(directory),
            f"a checkpoint that cannot be read ({first[:200]})",
            "the files as they were written",
            "Restore them, or remove this step's directory to go on from the one before.",
        ) from e


def _stored_shapes(reader: ocp.StandardCheckpointer, item: pathlib.Path) -> Params:
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

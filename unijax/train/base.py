"""Runs on top of another: their checkpoints hold what trains, and name the run that holds the rest.

Adapters of a few megabytes stand for a model of gigabytes that way. What a checkpoint records under
`base` is where that run is; that it is the same one still, its checksums tell, which are of all
parameters, those that are left out among them.
"""

import os
import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from unijax.core import storage
from unijax.core.errors import UserError
from unijax.core.paths import is_address
from unijax.train import desk
from unijax.train.checksum import checksums
from unijax.train.orbax_manager import Place

KEY = "base"  # of what a checkpoint records


def record(run_dir: str | os.PathLike, step_dir: str | os.PathLike) -> dict:
    """What a checkpoint of `run_dir` records of the step of another run that it stands on."""
    here, there = _whole(desk.home(run_dir)), _whole(step_dir)
    found = {"path": there}
    if is_address(here) == is_address(there):
        found["beside"] = os.path.relpath(there, here)
    return {KEY: found}


def of(run: Mapping, step_dir: Place) -> Place | None:
    """The step of another run that a checkpoint stands on; None for one that is whole.

    Args:
      run: what the checkpoint records.
      step_dir: of the checkpoint. Both runs may have been moved together.

    Raises:
      UserError: if it is not there.
    """
    said = run.get(KEY)
    if said is None:
        return None
    places = [said["path"]]
    if "beside" in said:
        places.append(_whole(os.path.join(_whole(step_dir.parent.parent), said["beside"])))
    for name in places:
        place = epath.Path(name) if is_address(name) else pathlib.Path(name)
        if place.is_dir():
            return place
    raise UserError(
        str(step_dir),
        f"a checkpoint without the parameters that it left in {said['path']}, which is gone",
        "that run directory, where it was or as it stood beside this one",
        "Put it back, or keep whole checkpoints with loop.save_frozen=true.",
    )


def _whole(place: str | os.PathLike) -> str:
    """From the root of its file system or bucket, without steps back."""
    return storage.normal(os.path.normpath(place)) if is_address(place) else os.path.abspath(place)


def check(where: str, run: Mapping, below: Mapping[str, jax.Array | np.ndarray]) -> None:
    """Holds parameters of a base to those that a checkpoint was trained on.

    Args:
      where: the checkpoint, for messages.
      run: what it records: checksums, by path and the dtype that each was used in.
      below: parameters by path that it left in the base, in that dtype or a wider one.

    Raises:
      UserError: if one is missing, or holds other values.
    """
    saved: dict[str, tuple[str, int]] = {}
    for name, value in run.get("checksums", {}).items():
        path, _, dtype = name.rpartition(" ")
        if path.startswith("params/"):
            saved[path.removeprefix("params/")] = dtype, value
    other = []
    for path, x in below.items():
        if path in saved:
            dtype, value = saved[path]
            (found,) = checksums([jnp.asarray(x).astype(dtype)]).values()
            if found != value:
                other.append(path)
    if other:
        raise UserError(
            where,
            f"what was trained on another base: {len(other)} parameters differ ({other[0]})",
            "the run directory that it was trained on",
            "Give that one, or train on this one in a --run-dir of its own.",
        )

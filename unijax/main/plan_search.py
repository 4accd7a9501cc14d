"""What to change where a step does not fit: the nearest change that does, found by compiling."""

import dataclasses
import itertools
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

from jax.sharding import AbstractMesh

from unijax.core.errors import UserError
from unijax.core.mesh import AXES, DATA, FSDP, SEQUENCE, TENSOR
from unijax.data.pictures import PictureConfig
from unijax.main.plan import Plan, arguments, plan
from unijax.main.run import RunConfig, make_system
from unijax.main.train import check_rows
from unijax.nn.stack import REMAT_POLICIES
from unijax.parallel.sharding import TABLES, mesh_shape
from unijax.plan.hardware import Topology

Change = dict[str, Any]  # new values, by the keys of the command line


def levers(run: RunConfig, topology: Topology) -> dict[str, list[Change]]:
    """What makes a step smaller: each lever's changes from the weakest to the strongest.

    The nearest lever comes first. A smaller batch trains otherwise; all others leave the numbers as
    they are, but for rounding.
    """
    sizes = mesh_shape(run.mesh, topology.size)
    slices = topology.count if topology.chip.platform == "tpu" else 1
    stronger = {"none": ["dots", "full"], "dots": ["full"], "full": []}
    assert stronger.keys() == REMAT_POLICIES.keys()
    of_pictures = isinstance(run.data, PictureConfig)
    name = "data.batch" if of_pictures else "data.rows"
    rows = run.data.batch if of_pictures else run.data.rows
    more_parts = []
    for n in (2, 4, 8, 16, 32, 64, 128, 256):
        if sizes[DATA] % (n * slices) == 0:
            more_parts.append({DATA: sizes[DATA] // n, FSDP: sizes[FSDP] * n})
    split = []
    for n in (2, 4, 8):
        fsdp, left = divmod(topology.size, slices * sizes[SEQUENCE] * n)
        if n > sizes[TENSOR] and not left:
            split.append({DATA: slices, FSDP: fsdp, TENSOR: n})
    return {
        "recomputation": [{"remat": remat} for remat in stronger[run.remat]],
        "parts of a step": [{"accumulate": run.accumulate * n} for n in (2, 4, 8, 16, 32)],
        "parts of parameters": [_mesh(run, sizes, sizes | new) for new in more_parts],
        "heads and widths": [_mesh(run, sizes, sizes | new) for new in split],
        "batch": [{name: rows // n} for n in (2, 4, 8) if rows % n == 0],
    }


def _mesh(run: RunConfig, old: dict[str, int], new: dict[str, int]) -> Change:
    """From the sizes of one mesh to those of another, with the least table that uses them."""
    least = "fsdp"
    if new[TENSOR] > 1:
        least = "fsdp_tensor"
    if new[SEQUENCE] > 1:
        least = "fsdp_tensor_sequence"
    table = max(run.mesh.table, least, key=list(TABLES).index)
    change: Change = {f"mesh.{axis}": new[axis] for axis in AXES if new[axis] != old[axis]}
    return change | ({"mesh.table": table} if table != run.mesh.table else {})


def changes(run: RunConfig, topology: Topology) -> Iterator[list[Change]]:
    """By the levers that they pull, the nearest first, each from the weakest to the strongest.

    One lever before two, and two before three; whatever leaves the batch before what does not.
    """
    all_levers = levers(run, topology)
    mesh = {"parts of parameters", "heads and widths"}
    sets = [
        some
        for count in range(1, len(all_levers) + 1)
        for some in itertools.combinations(all_levers, count)
        if not mesh <= set(some)  # each sets the whole mesh
    ]
    for some in sorted(sets, key=lambda names: "batch" in names):  # keeps the order otherwise
        places = itertools.product(*(range(len(all_levers[name])) for name in some))
        found = []
        for place in sorted(places, key=sum):
            parts = (all_levers[name][i] for name, i in zip(some, place))
            change = {key: value for part in parts for key, value in part.items()}
            if _is_run(changed(run, change), topology):
                found.append(change)
        if found:
            yield found


def _is_run(run: RunConfig, topology: Topology) -> bool:
    """Whether its system can be trained so, and its rows divide over the devices."""
    try:
        sizes = mesh_shape(run.mesh, topology.size)
        check_rows(run, AbstractMesh(tuple(sizes.values()), AXES))
        return make_system(run).rows_alone or run.accumulate == 1
    except UserError:
        return False


def changed(run: RunConfig, change: Change) -> RunConfig:
    """`run` with the values of `change`."""
    for key, value in change.items():
        group, _, name = key.rpartition(".")
        if group:
            inner = dataclasses.replace(getattr(run, group), **_whole(change, group))
            run = dataclasses.replace(run, **{group: inner})
        else:
            run = dataclasses.replace(run, **{name: value})
    return run


def _whole(change: Change, group: str) -> Change:
    """All changes of a group: it is checked as one."""
    return {k.split(".")[1]: v for k, v in change.items() if k.startswith(group + ".")}


class _Tries:
    """Compiles what is changed, at most `left` times."""

    def __init__(self, run: RunConfig, topology: Topology, cache: pathlib.Path | None, left: int):
        self._run, self._topology, self._cache = run, topology, cache
        self.left = left

    def fits(self, change: Change) -> Plan | None:
        """The plan of a change, if it fits and may be tried."""
        run, text = changed(self._run, change), as_text(change)
        if self.left <= 0:
            return None
        try:
            needed, capacity = arguments(run, self._topology), self._topology.chip.memory
            if needed > capacity:
                _say(f"{text}: no, parameters, optimizer and batch alone are more than there is")
                return None
            _say(f"trying {text}")
            self.left -= 1
            found = plan(run, self._topology, change, self._cache)
        except UserError as refused:
            _say(f"{text}: no ({refused})")
            return None
        return found if found.fits else None


def nearest(
    run: RunConfig, topology: Topology, first: Plan, cache: pathlib.Path | None, tries: int
) -> Plan:
    """The nearest change that fits, found by compiling; `first` where none does.

    Of the changes that pull the same levers the strongest is tried first: where it does not fit,
    none of them is taken to. Where it does, the weakest that fits is looked for by halving.

    Args:
      tries: compilations, at most.
    """
    trial = _Tries(run, topology, cache, tries)
    for same in changes(run, topology):
        found = trial.fits(same[-1])
        if found is None:
            continue
        low, high = 0, len(same) - 1  # `high` fits
        while low < high:
            middle = (low + high) // 2
            weaker = trial.fits(same[middle])
            found, low, high = (
                (found, middle + 1, high) if weaker is None else (weaker, low, middle)
            )
        return found
    if trial.left <= 0:
        _say(f"none of {tries} changes fits, and no more are tried")
    return first


def as_text(change: Change) -> str:
    """As on the command line."""
    return " ".join(f"{key}={value}" for key, value in change.items())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

"""What to change where a step does not fit: the nearest change that does, found by compiling."""

import dataclasses
import pathlib
import sys
from typing import Any

from unijax.core.errors import UserError
from unijax.core.mesh import DATA, FSDP, SEQUENCE, TENSOR
from unijax.data.pictures import PictureConfig
from unijax.main.plan import Plan, plan
from unijax.main.run import RunConfig
from unijax.parallel.sharding import TABLES, MeshConfig, mesh_shape
from unijax.plan.hardware import Topology


def changes(run: RunConfig, devices: int) -> list[dict[str, Any]]:
    """What may make a step fit, the nearest to the config first; keys as on the command line.

    What leaves the numbers as they are comes before what costs time, and that before a smaller
    batch: recomputation, parts of a step, parameters in more parts, heads and widths split.
    """
    out: list[dict[str, Any]] = []
    order = ["none", "dots", "full"]
    stronger = order[order.index(run.remat) + 1 :]
    out += [{"remat": remat} for remat in stronger]
    full = {} if run.remat == "full" else {"remat": "full"}
    rows = run.data.batch if isinstance(run.data, PictureConfig) else run.data.rows
    name = "data.batch" if isinstance(run.data, PictureConfig) else "data.rows"
    sizes = mesh_shape(run.mesh, devices)
    tensors = [sizes[TENSOR], *(n for n in (2, 4, 8) if n > sizes[TENSOR])]
    split = [_split(run.mesh, sizes[SEQUENCE], n) for n in tensors]
    for mesh, tensor in [({}, sizes[TENSOR]), *zip(split, tensors)]:
        shards, left = divmod(devices, sizes[SEQUENCE] * tensor)
        if left:
            continue
        if mesh and rows % (shards * run.accumulate) == 0:
            out.append(full | mesh)
        times = [n for n in (2, 4, 8, 16, 32) if rows % (shards * run.accumulate * n) == 0]
        out += [full | mesh | {"accumulate": run.accumulate * n} for n in times]
    least = sizes[DATA] * sizes[FSDP] * run.accumulate
    out += [full | {name: rows // n} for n in (2, 4) if rows % (least * n) == 0]
    return out


def _split(mesh: MeshConfig, sequence: int, tensor: int) -> dict[str, Any]:
    """What to change for parameters in as many parts as there are devices; empty for nothing."""
    order = list(TABLES)
    needed = "fsdp_tensor_sequence" if sequence > 1 else "fsdp_tensor" if tensor > 1 else "fsdp"
    wanted = {
        "data": 1, "fsdp": -1, "sequence": sequence, "tensor": tensor,
        "table": max(mesh.table, needed, key=order.index),
    }  # fmt: skip
    return {f"mesh.{k}": value for k, value in wanted.items() if getattr(mesh, k) != value}


def changed(run: RunConfig, change: dict[str, Any]) -> RunConfig:
    """`run` with the values of `change`."""
    for key, value in change.items():
        group, _, name = key.rpartition(".")
        if group:
            inner = dataclasses.replace(getattr(run, group), **_whole(run, group, change))
            run = dataclasses.replace(run, **{group: inner})
        else:
            run = dataclasses.replace(run, **{name: value})
    return run


def _whole(run: RunConfig, group: str, change: dict[str, Any]) -> dict[str, Any]:
    """All changes of a group: it is checked as one."""
    return {k.split(".")[1]: v for k, v in change.items() if k.startswith(group + ".")}


def nearest(run: RunConfig, topology: Topology, first: Plan, cache: pathlib.Path | None) -> Plan:
    """The first change that fits, found by compiling; `first` where none does."""
    for change in changes(run, topology.size):
        other = changed(run, change)
        text = " ".join(f"{k}={v}" for k, v in change.items())
        print(f"does not fit; trying {text}", file=sys.stderr, flush=True)
        try:
            tried = plan(other, topology, change, cache)
        except UserError as refused:
            print(f"  {refused}", file=sys.stderr)
            continue
        if tried.fits:
            return tried
    return first

"""Parameters as text that a reviewer reads: shapes, names of dims, and where they lie on a mesh."""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from flax.core import meta
from jax.sharding import AbstractMesh

from unijax.core.mesh import AXES
from unijax.core.tree import flatten
from unijax.parallel.sharding import TABLES, param_shardings

FULL = "fsdp_tensor_sequence"
# Sizes of the axes on which each table is shown.
SHOWN = {
    "data": (8, 1, 1, 1),
    "fsdp": (2, 32, 1, 1),
    "fsdp_tensor": (2, 16, 1, 4),
    FULL: (2, 8, 4, 4),
}


def parameter_table(boxed: Any, own: Mapping[str, str]) -> str:
    """A line for each parameter: path, shape, logical axes; then the counts of the groups.

    Args:
      own: the system's (`System.own_axes`), here as in the others.
    """
    boxes = flatten(boxed)
    width = max(map(len, boxes))
    lines, counts = [], {}
    for path, box in boxes.items():
        assert isinstance(box, meta.AxisMetadata), path
        assert len(box.names) == len(box.value.shape), path
        assert all((table.keys() | own.keys()) >= set(box.names) for table in TABLES.values()), path
        shape = " x ".join(map(str, box.value.shape))
        lines.append(f"{path:{width}}  {shape:24}  {' '.join(box.names)}")
        group = path.split("/")[0]
        counts[group] = counts.get(group, 0) + math.prod(box.value.shape)
    counts["total"] = sum(counts.values())
    return "\n".join(lines + [""] + [f"{n:24}{c:15,}" for n, c in counts.items()])


def lies(boxed: Any, table: str, own: Mapping[str, str]) -> dict[str, str]:
    """Of every path, the mesh axes of its dims."""
    mesh = AbstractMesh(SHOWN[table], AXES)
    flat = flatten(param_shardings(boxed, mesh, table, own))
    shapes = flatten(nn.unbox(boxed))

    def show(path):
        spec = [flat[path].spec[i] for i in range(len(flat[path].spec))]
        names = [(s,) if isinstance(s, str) else s or () for s in spec]
        return " ".join("+".join(n) or "-" for n in names)

    return {path: show(path) for path in shapes}


def bytes_per_device(boxed: Any, table: str, own: Mapping[str, str]) -> int:
    shardings = flatten(param_shardings(boxed, AbstractMesh(SHOWN[table], AXES), table, own))
    shapes = flatten(nn.unbox(boxed))
    return sum(math.prod(s.shard_shape(shapes[p].shape)) * 4 for p, s in shardings.items())


def sharding_table(boxed: Any, own: Mapping[str, str]) -> str:
    """A line for every parameter: shape, then where its dims lie by each table."""
    columns = {table: lies(boxed, table, own) for table in TABLES}
    widths = {t: max(map(len, [t, *c.values()])) for t, c in columns.items()}
    head = ["Axes " + " x ".join(AXES) + ":"]
    head += [
        f"  {t:{len(FULL)}}  {' x '.join(map(str, SHOWN[t])):14}"
        f"{bytes_per_device(boxed, t, own) / 2**20:9,.1f} MiB of float32 parameters on a device"
        for t in TABLES
    ]
    shapes = flatten(nn.unbox(boxed))
    width = max(map(len, shapes))
    lines = [f"{'':{width}}  {'':18}" + "  ".join(f"{t:{widths[t]}}" for t in TABLES)]
    for path, x in shapes.items():
        shape = " x ".join(map(str, x.shape))
        row = "  ".join(f"{columns[t][path]:{widths[t]}}" for t in TABLES)
        lines.append(f"{path:{width}}  {shape:18}{row}".rstrip())
    return "\n".join([*head, "", *lines])

"""A mesh, and short strict tables from logical axis names to its axes."""

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from unijax.core import axes
from unijax.core.errors import UserError
from unijax.core.mesh import AXES, DATA, FSDP, PARTS, ROWS, SEQUENCE, TENSOR, WHOLE, that_divide

# Every logical name is of one of three kinds; one of none is an error: nothing is replicated by
# oversight.
_RESIDUAL = (axes.EMBED, axes.VISION_EMBED, axes.CONV_OUT)
_WIDE = (
    axes.VOCAB, axes.CODES, axes.HEADS, axes.KV_HEADS, axes.MLP, axes.VISION_HEADS,
    axes.VISION_MLP,
)  # fmt: skip
_KEPT = (
    axes.LAYERS, axes.CODEBOOK, axes.CODE_DIM, axes.PATCH, axes.POSITIONS, axes.CONV_IN,
    axes.SPATIAL, axes.RANK, axes.NORM,
)  # fmt: skip


def _table(residual: tuple[str, ...], wide: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    kinds = ((_RESIDUAL, residual), (_WIDE, wide), (_KEPT, WHOLE))
    return {name: split for names, split in kinds for name in names}


TABLES: dict[str, dict[str, tuple[str, ...]]] = {
    # Every device holds every parameter.
    "data": _table(WHOLE, WHOLE),
    # Each matrix is split along its residual (or input) dim, gathered when used (ZeRO-3).
    "fsdp": _table((FSDP,), WHOLE),
    # Also along its other dim: heads, hidden widths and classes are worked where they lie.
    "fsdp_tensor": _table((FSDP,), (TENSOR,)),
    # Also over the devices that share a row's positions, which use the same parameters.
    "fsdp_tensor_sequence": _table(PARTS, (TENSOR,)),
}


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes and the table of parameters. One size may be -1: what is left.

    Attributes:
      data: replicas of the parameters; outermost, over TPU slices and hosts.
      fsdp: devices over which parameters are split. Rows are split over both.
      sequence: devices over which the positions of a row are split.
      tensor: devices over which heads, hidden widths and classes are split.
      table: key of `TABLES`.
    """

    data: int = -1
    fsdp: int = 1
    sequence: int = 1
    tensor: int = 1
    table: str = "data"

    def __post_init__(self):
        if self.table not in TABLES:
            raise UserError(
                "mesh.table", repr(self.table), f"one of {sorted(TABLES)}", "Correct the config."
            )
        used = {axis for names in TABLES[self.table].values() for axis in names} | set(ROWS)
        for axis in AXES:
            if axis not in used and getattr(self, axis) != 1:
                raise UserError(
                    f"mesh.{axis}",
                    f"{getattr(self, axis)} with the table {self.table!r}, which does not use it",
                    "1",
                    f"Choose one of {[t for t in TABLES if _uses(t, axis)]} as mesh.table.",
                )


def _uses(table: str, axis: str) -> bool:
    return any(axis in names for names in TABLES[table].values())


def mesh_shape(config: MeshConfig, devices: int) -> dict[str, int]:
    """The size of every axis, in order, the one that is -1 worked out.

    Raises:
      UserError: if the sizes do not multiply to the number of devices.
    """
    sizes = {axis: getattr(config, axis) for axis in AXES}
    free = [axis for axis, size in sizes.items() if size == -1]
    known = math.prod(size for size in sizes.values() if size != -1)
    if len(free) == 1 and known > 0:
        sizes[free[0]] = devices // known
    if min(sizes.values()) < 1 or math.prod(sizes.values()) != devices:
        given = " x ".join(f"{axis}={getattr(config, axis)}" for axis in AXES)
        raise UserError(
            "mesh",
            f"{given} on {devices} devices",
            "a product equal to the number of devices",
            "Set one to -1 and the others to divisors of the number of devices.",
        )
    return sizes


def make_mesh(config: MeshConfig, devices: list | None = None) -> Mesh:
    """The mesh over `devices` (all by default).

    On a TPU, axes lie along the links of the chips, and several slices differ in `data` alone. On
    GPUs, the innermost axes fill a host before they reach the next.

    Raises:
      UserError: if the sizes do not multiply to the number of devices, or `data` does not to the
        number of slices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = mesh_shape(config, len(devices))
    if devices[0].platform != "tpu":
        order = sorted(devices, key=lambda d: (d.process_index, d.id))
        return Mesh(np.asarray(order).reshape(*sizes.values()), AXES)
    slices = len({getattr(d, "slice_index", 0) for d in devices})
    if sizes[DATA] % slices:
        raise UserError(
            "mesh.data",
            f"{sizes[DATA]} on {slices} slices",
            "a multiple of the number of slices: between slices only gradients are summed",
            f"Set mesh.data={slices} and mesh.fsdp=-1.",
        )
    shape = tuple(sizes.values())
    if slices == 1:
        placed = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    else:
        placed = mesh_utils.create_hybrid_device_mesh(
            (shape[0] // slices, *shape[1:]),
            (slices, 1, 1, 1),
            devices,
            allow_split_physical_axes=True,
        )
    return Mesh(placed, AXES)


def describe(mesh: Mesh, table: str) -> str:
    """A line on what is split over how many devices."""
    split = [f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1]
    kind = mesh.devices.flat[0].device_kind
    hosts = len({d.process_index for d in mesh.devices.flat})
    return (
        f"mesh: {' x '.join(split) or 'one device'}; {mesh.size} {kind} on "
        f"{hosts} host{'s' * (hosts > 1)}; parameters by the table {table!r}"
    )


def batch_sharding(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Rows are split over `data` and `fsdp`."""
    return NamedSharding(mesh, P(ROWS))


def row_shards(mesh: Mesh | AbstractMesh) -> int:
    """Into how many parts the rows of a batch are split."""
    return math.prod(mesh.shape[axis] for axis in ROWS)


def reader(mesh: Mesh, process: int | None = None) -> tuple[int, int]:
    """Which share of a batch's rows this process reads, of how many shares.

    Processes whose devices hold the same rows, because positions or heads are split over them, read
    the same.

    Raises:
      UserError: if two processes share some rows but not all.
    """
    process = jax.process_index() if process is None else process
    shards = mesh.devices.reshape(row_shards(mesh), -1)
    rows: dict[int, set[int]] = {}
    for shard, devices in enumerate(shards):
        for device in devices:
            rows.setdefault(device.process_index, set()).add(shard)
    shares = sorted({tuple(sorted(held)) for held in rows.values()})
    if sum(map(len, shares)) != len(shards):
        raise UserError(
            f"mesh.{SEQUENCE}, mesh.{TENSOR}",
            f"{mesh.shape[SEQUENCE]} x {mesh.shape[TENSOR]} over {len(rows)} processes",
            "a product that divides, or is a multiple of, the devices of a process",
            "Change one of them.",
        )
    return shares.index(tuple(sorted(rows[process]))), len(shares)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def param_shardings(
    boxed: Any,
    mesh: Mesh | AbstractMesh,
    table: str,
    own: Mapping[str, str] = types.MappingProxyType({}),
) -> Any:
    """Shardings of a tree of parameters boxed with logical names (arrays or shapes).

    A mesh axis that does not divide a dim leaves that dim whole.

    Args:
      own: names of a recipe's own, and the name in the tables that each lies like.

    Raises:
      UserError: for a name without a row in the table.
    """
    rules = TABLES[table]
    for name, like in own.items():
        _check_row(f"the recipe's own axis {name!r}", like, rules)
    rules = rules | {name: rules[like] for name, like in own.items()}

    def one(path: tuple, x: nn.LogicallyPartitioned) -> NamedSharding:
        shape = x.value.shape
        assert len(x.names) == len(shape), (x.names, shape)
        for name in x.names:
            _check_row("/".join(str(key.key) for key in path), name, rules)
        spec, used = [], set()
        for name, size in zip(x.names, shape):
            free = tuple(axis for axis in rules[name] if axis not in used)
            split = that_divide(free, size, mesh.shape)
            spec.append(split)
            used.update(split)
        return NamedSharding(mesh, P(*spec))

    boxes = {"is_leaf": lambda x: isinstance(x, nn.LogicallyPartitioned)}
    return jax.tree_util.tree_map_with_path(one, boxed, **boxes)


def _check_row(where: str, name: str, rules: Mapping[str, tuple[str, ...]]) -> None:
    if name not in rules:
        raise UserError(
            where, f"the axis name {name!r}", f"one that the tables have: {', '.join(rules)}",
            "Name it in the recipe's own_axes, or in parallel/sharding.py.",
        )  # fmt: skip

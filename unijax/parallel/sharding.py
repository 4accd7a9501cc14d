"""A mesh, and short strict tables from logical axis names to its axes."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from unijax.core import axes
from unijax.core.errors import UserError
from unijax.core.mesh import DATA, FSDP

# A logical name absent from a table is an error: nothing is replicated by oversight.
_WHOLE = dict.fromkeys(axes.ALL)
TABLES: dict[str, dict[str, str | None]] = {
    # Every device holds every parameter.
    "data": _WHOLE,
    # Each matrix is split along its residual (or input) dim, gathered when used.
    "fsdp": _WHOLE | {axes.EMBED: FSDP, axes.VISION_EMBED: FSDP, axes.CONV_OUT: FSDP},
}


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes and the table of parameters. One size may be -1: what is left.

    Attributes:
      data: replicas.
      fsdp: devices over which parameters are split. Rows are split over both.
      table: key of `TABLES`.
    """

    data: int = -1
    fsdp: int = 1
    table: str = "data"

    def __post_init__(self):
        if self.table not in TABLES:
            raise UserError(
                "mesh.table", repr(self.table), f"one of {sorted(TABLES)}", "Correct the config."
            )


def make_mesh(config: MeshConfig, devices: list | None = None) -> Mesh:
    """The mesh over `devices` (all by default).

    Raises:
      UserError: if the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    data, fsdp, n = config.data, config.fsdp, len(devices)
    if data == -1 and fsdp > 0:
        data = n // fsdp
    elif fsdp == -1 and data > 0:
        fsdp = n // data
    if data * fsdp != n or data < 1:
        raise UserError(
            "mesh",
            f"data={config.data} x fsdp={config.fsdp} on {n} devices",
            "a product equal to the number of devices",
            "Set one to -1 and the other to a divisor of the number of devices.",
        )
    return Mesh(np.asarray(devices).reshape(data, fsdp), (DATA, FSDP))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows are split over all devices."""
    return NamedSharding(mesh, P((DATA, FSDP)))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def param_shardings(boxed: Any, mesh: Mesh, table: str) -> Any:
    """Shardings of a tree of parameters boxed with logical names (arrays or shapes).

    A mesh axis that does not divide a dim leaves that dim whole.
    """
    rules = TABLES[table]

    def one(x: nn.LogicallyPartitioned) -> NamedSharding:
        shape = x.value.shape
        assert len(x.names) == len(shape), (x.names, shape)
        spec, used = [], set()
        for name, size in zip(x.names, shape):
            axis = rules[name]
            if axis is None or axis in used or size % mesh.shape[axis]:
                spec.append(None)
            else:
                spec.append(axis)
                used.add(axis)
        return NamedSharding(mesh, P(*spec))

    return jax.tree.map(one, boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))

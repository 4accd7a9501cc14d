"""Names of the axes of a mesh of devices, which of them may be used here, and what they split.

Parameters lie on a mesh as a table says (`parallel.sharding`). How the arrays that a program makes
are split follows from the axes alone, and is said here once: rows over `data` and `fsdp`, positions
of a row over `sequence`, heads and hidden widths over `tensor`.
"""

import math

import jax
from jax import Array
from jax.sharding import PartitionSpec

# In the order of a mesh: the axes that talk most are innermost, over the nearest devices.
DATA = "data"  # rows
FSDP = "fsdp"  # rows too, and parameters along one of their dims
SEQUENCE = "sequence"  # positions of a row
TENSOR = "tensor"  # heads, hidden widths and classes
AXES = (DATA, FSDP, SEQUENCE, TENSOR)

# Dims of arrays, each as the axes that split it.
ROWS = (DATA, FSDP)  # images too: they stay with the rows that show them
POSITIONS = (SEQUENCE,)  # of a row of tokens, or the patches of an image
IMAGES = AXES  # of a network whose parameters are whole: nothing else would share its work
PARTS = (FSDP, SEQUENCE)  # of a width, where parameters that are split along it are looked up
WHOLE = ()


def axes_in_use(*names: str) -> tuple[str, ...]:
    """Those of the axes that split something here.

    The mesh is the one of the context (`jax.set_mesh`, `train.setup`); there are none without it,
    and none inside a `jax.shard_map`, where each device already has its own part.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return tuple(n for n in names if mesh.shape.get(n, 1) > 1 and n not in mesh.manual_axes)


def that_divide(axes: tuple[str, ...], size: int, mesh_shape: dict[str, int]) -> tuple[str, ...]:
    """The most of the axes, from the first on, over which a dim of `size` splits evenly."""
    for count in range(len(axes), 0, -1):
        if size % math.prod(mesh_shape[axis] for axis in axes[:count]) == 0:
            return axes[:count]
    return ()


def lay(x: Array, *dims: tuple[str, ...]) -> Array:
    """`x`, laid over the devices: each dim over those of its axes that are in use and divide it.

    Without a mesh that splits anything, `x` as it is.

    Args:
      dims: of `x`, first to last: `ROWS`, `POSITIONS`, ..., `WHOLE`.
    """
    assert len(dims) == x.ndim, (dims, x.shape)
    if not axes_in_use(*AXES):
        return x
    mesh = jax.sharding.get_abstract_mesh()
    split = [that_divide(axes_in_use(*axes), n, mesh.shape) for axes, n in zip(dims, x.shape)]
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*split))

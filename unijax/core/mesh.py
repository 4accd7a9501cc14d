"""Names of the axes of a mesh of devices, and which of them the program being traced may use."""

import jax

DATA = "data"  # rows
FSDP = "fsdp"  # rows too, and parameters along one of their dims
TENSOR = "tensor"  # heads, hidden widths and classes
SEQUENCE = "sequence"  # positions of a row


def axes_in_use(*names: str) -> tuple[str, ...]:
    """Those of the axes that split something here.

    The mesh is the one of the context (`jax.set_mesh`, `train.setup`); there are none without it,
    and none inside a `jax.shard_map`, where each device already has its own part.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return tuple(n for n in names if mesh.shape.get(n, 1) > 1 and n not in mesh.manual_axes)

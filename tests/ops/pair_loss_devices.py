"""Run by test_pair_loss_devices.py in a process with 8 devices: losses of pairs over each mesh."""

import functools
import re

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.ops.test_pair_loss import LOSSES, assert_close, assert_gradients_close, gradients, inputs
from unijax.core.mesh import DATA, FSDP, SEQUENCE, TENSOR

MESHES = (
    {DATA: 8},
    {DATA: 2, FSDP: 4},
    {DATA: 2, FSDP: 2, SEQUENCE: 2},
    {FSDP: 4, TENSOR: 2},
)
ROWS, CHUNK = 48, 4


def gathered(text: str) -> list[str]:
    return re.findall(r"= \(?\S+ all-gather", text)


def check(name: str, axes: dict[str, int], rows: int) -> None:
    """The same numbers as the dense form on one device, and nothing gathered."""
    tiled, dense = LOSSES[name]
    args = inputs(rows=rows)
    wanted_grads, wanted = gradients(dense, *args)
    mesh = Mesh(np.array(jax.devices()).reshape(*axes.values()), tuple(axes))
    with jax.set_mesh(mesh):
        spec = P(tuple(a for a in (DATA, FSDP) if a in axes)) if rows == ROWS else P()
        placed = [jax.device_put(x, NamedSharding(mesh, spec if np.ndim(x) else P())) for x in args]
        program = gradients.lower(functools.partial(tiled, CHUNK), *placed).compile()
        grads, found = program(*placed)
    jax.tree.map(assert_close, found, wanted)
    assert_gradients_close(grads, wanted_grads, args[0], args[2])
    text = program.as_text()
    assert not gathered(text)
    assert ("collective-permute" in text) == (rows == ROWS)


if __name__ == "__main__":
    for name in LOSSES:
        for axes in MESHES:
            check(name, axes, ROWS)
        check(name, MESHES[0], 13)  # does not divide: every device works all of it
    print("equal")

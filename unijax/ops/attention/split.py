"""Kernels on many devices: each works the rows, heads and queries that it holds.

A compiler cannot see in a kernel what needs what, and would gather everything to every device. So
the mesh of the context (`core.mesh`) says what each device has: rows and heads need nothing of each
other; queries, where a row itself is split, need its keys and values, which are gathered, and whose
gradients are summed back to where they belong (Llama 3, arXiv 2407.21783, section 3.3.2). The
intervals of some queries of a row are intervals still, so blocks that nobody on a device sees are
skipped there.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

from unijax.core.mesh import DATA, FSDP, SEQUENCE, TENSOR, axes_in_use

# Dims of arrays: b rows, t queries, s keys, h query heads, k key heads, d whole.
Q, K, END, ROW = "bthd", "bskd", "bt", "bht"


class Split(NamedTuple):
    """Axes of the mesh over which dims are split: those that divide them, none on one device."""

    rows: tuple[str, ...]
    heads: tuple[str, ...]
    positions: tuple[str, ...]

    @classmethod
    def of(cls, rows: int, kv_heads: int, q_len: int, k_len: int) -> "Split":
        """Query heads go with the key heads that they read."""
        mesh = jax.sharding.get_abstract_mesh()

        def dividing(axes, *sizes):
            count = math.prod(mesh.shape[axis] for axis in axes)
            return axes if all(size % count == 0 for size in sizes) else ()

        return cls(
            dividing(axes_in_use(DATA, FSDP), rows),
            dividing(axes_in_use(TENSOR), kv_heads),
            dividing(axes_in_use(SEQUENCE), q_len, k_len),
        )

    def spec(self, dims: str, keys_split: bool) -> PartitionSpec:
        by = dict(b=self.rows, h=self.heads, k=self.heads, t=self.positions)
        if keys_split:
            by["s"] = self.positions
        return PartitionSpec(*(by.get(dim, ()) for dim in dims))


def over_devices(
    fn: Callable, dims: tuple[str, ...], out_dims: tuple[str, ...], *args: Array
) -> tuple[Array, ...]:
    """`fn(*args)`, on every device over what it holds.

    Args:
      fn: of arrays, a tuple of arrays. A result of the dims `K` is a sum over queries.
      dims, out_dims: of every argument and result, as above; the first argument is `Q`, the second
        `K`.
    """
    (rows, q_len, *_), (_, k_len, kv_heads, _) = args[0].shape, args[1].shape
    if not axes_in_use(*jax.sharding.get_abstract_mesh().axis_names):
        return fn(*args)
    # Also where no size divides: a kernel that the compiler is to split does not compile.
    split = Split.of(rows, kv_heads, q_len, k_len)

    def whole(x, dims):
        if dims != K or not split.positions:
            return x
        sums = jax.lax.psum_scatter(
            x.astype(jnp.float32), SEQUENCE, scatter_dimension=1, tiled=True
        )
        return sums.astype(x.dtype)

    def of_device(*args):
        return tuple(map(whole, fn(*args), out_dims))

    return jax.shard_map(
        of_device,
        in_specs=tuple(split.spec(names, keys_split=False) for names in dims),
        out_specs=tuple(split.spec(names, keys_split=True) for names in out_dims),
        check_vma=False,
    )(*args)


def queries_of_device(q_len: int, k_len: int) -> int:
    """How many queries of a row a device works."""
    mesh = jax.sharding.get_abstract_mesh()
    positions = Split.of(0, 0, q_len, k_len).positions
    return q_len // math.prod(mesh.shape[axis] for axis in positions)

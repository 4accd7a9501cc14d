"""Attention of rows that are split over devices along their positions."""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Float, Int

from unijax.ops.attention.api import attention


def sequence_parallel_attention(
    q: Float[Array, "B Tq H D"],
    k: Float[Array, "B Tk Hkv D"],
    v: Float[Array, "B Tk Hkv D"],
    kv_start: Int[Array, "B Tq"],
    kv_end: Int[Array, "B Tq"],
    *,
    mesh: Mesh,
    axis: str,
    **options: Any,
) -> Float[Array, "B Tq H D"]:
    """`attention` with queries and keys split along `axis` of the mesh, which divides both lengths.

    Every device gathers the keys and values and works its own queries; the gradients of keys and
    values are summed back to where they belong (Llama 3, arXiv 2407.21783, section 3.3.2). The
    intervals of some queries of a row are intervals still, so blocks that nobody on a device sees
    are skipped there.

    Args:
      options: of `attention`.
    """

    def of_device(q, k, v, start, end):
        k, v = (jax.lax.all_gather(x, axis, axis=1, tiled=True) for x in (k, v))
        return attention(q, k, v, start, end, **options)

    split = PartitionSpec(None, axis)
    mapped: Callable = jax.shard_map(
        of_device, mesh=mesh, in_specs=(split,) * 5, out_specs=split, axis_names={axis},
        check_vma=False,
    )  # fmt: skip
    return mapped(q, k, v, kv_start, kv_end)

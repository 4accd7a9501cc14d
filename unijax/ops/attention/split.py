"""Kernels on many devices: each works the rows and heads it holds.

Rows and heads of attention need nothing of each other, but a compiler cannot see that in a kernel,
and would gather everything to every device. Here it is told, by names of dims.
"""

from collections.abc import Callable

import jax
from jax import Array
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

# Of each array: b rows, h query heads, k key heads; the others stay whole.
Q, K, END, ROW = "bthd", "bskd", "bt", "bht"


def over_rows_and_heads(
    fn: Callable, dims: tuple[str, ...], out_dims: tuple[str, ...], *args: Array
) -> tuple[Array, ...]:
    """`fn(*args)`, on every device over the rows and heads that it holds of the first argument.

    Args:
      dims, out_dims: the dims of every argument and result, as above; the first argument is `Q`,
        the second `K`.

    Query heads are split with the key heads they read: not at all where these do not divide over
    the devices.
    """
    if max(jax.device_count(), jax.sharding.get_abstract_mesh().size) == 1:
        return fn(*args)
    kv_heads = args[1].shape[2]
    group = args[0].shape[2] // kv_heads

    def partition(mesh, arg_shapes, result_shapes):
        rows, _, heads, _ = arg_shapes[0].sharding.spec
        axes = (heads,) if isinstance(heads, str) else heads or ()
        count = 1
        for axis in axes:
            count *= mesh.shape[axis]
        heads = heads if kv_heads % count == 0 else None
        by = {"b": rows, "h": heads, "k": heads}

        def shardings(names):
            return tuple(
                NamedSharding(mesh, PartitionSpec(*(by.get(n) for n in name))) for name in names
            )

        return mesh, fn, shardings(out_dims), shardings(dims)

    heads = "k" if group == 1 else "g" if kv_heads == 1 else "(k g)"
    rule = " -> ".join(
        ", ".join(" ".join(heads if n == "h" else n for n in name) for name in names)
        for names in (dims, out_dims)
    )
    split = custom_partitioning(fn)
    sizes = {"g": group} if "(" in heads else {}
    # In the order in which the rule names them, which the compiler insists on.
    whole = [n for n in dict.fromkeys(rule) if n.isalpha() and n not in "bk"]
    split.def_partition(
        partition, sharding_rule=rule, need_replication_factors=tuple(whole), **sizes
    )
    return split(*args)

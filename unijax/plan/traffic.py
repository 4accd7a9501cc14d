"""Bytes that a step moves between a device's memory and its cores, activations left out."""

import math
from typing import Any

from jax.sharding import NamedSharding, PartitionSpec

from unijax.core import tree
from unijax.core.mesh import PARTS
from unijax.plan.memory import on_device
from unijax.plan.work import Work
from unijax.train.state import TrainState


def traffic(state: TrainState, work: Work, remat: str, accumulate: int, itemsize: int) -> float:
    """Of a device, at least.

    Every pass over a part of the model reads its parameters as they are used, in the compute dtype;
    of a table of embeddings the rows that are looked up, once. The update reads and writes what it
    changes, a table whole too. Gradients are written and read, those of every part of the step.

    Args:
      state: abstract, with shardings.
      itemsize: bytes of a number of the compute dtype.
    """
    reads = 0.0
    for path, x in (tree.flatten(state.params) | tree.flatten(state.frozen)).items():
        if path in work.lookups:
            rows = work.lookups[path] / x.sharding.mesh.size
            reads += rows * x.shape[-1] * x.dtype.itemsize
        else:
            reads += accumulate * passes(path, work, remat) * whole_width(x) * itemsize
    changed = on_device((state.params, state.opt_state, state.ema))
    return reads + 2 * changed + 2 * accumulate * on_device(state.params)


def passes(path: str, work: Work, remat: str) -> int:
    """How often one part of a step reads a parameter."""
    if _starts(path, work.idle):
        return 0
    if _starts(path, work.forward_only):
        return 1
    return 3 if remat == "full" and "/layers/" in path else 2


def _starts(path: str, groups: tuple[str, ...]) -> bool:
    return any(tree.is_within(path, group) for group in groups)


def whole_width(x: Any) -> int:
    """Numbers of an array as a device uses it: gathered where it lies in parts of a width."""
    spec = (tuple(a for a in _names(dim) if a not in PARTS) for dim in x.sharding.spec)
    gathered = NamedSharding(x.sharding.mesh, PartitionSpec(*spec))
    return math.prod(gathered.shard_shape(x.shape))


def _names(dim: Any) -> tuple[str, ...]:
    return (dim,) if isinstance(dim, str) else tuple(dim or ())

"""Bytes of a step on one device: what is known exactly, and what the compiler found."""

import dataclasses
import math
from typing import Any

import jax

from unijax.plan.compiled import Compiled
from unijax.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on a device.

    Attributes:
      parameters: trained ones, frozen ones and their moving average, exactly.
      optimizer: its state, exactly.
      batch: of a step, exactly.
      gradients: of the trained parameters, in their dtype; a part of `temporaries`.
      temporaries: of the compiled step: activations, gathered parameters, gradients.
      other: program and results that are not written over their arguments.
      capacity: what a program may use.
    """

    parameters: int
    optimizer: int
    batch: int
    gradients: int
    temporaries: int
    other: int
    capacity: float

    @property
    def total(self) -> int:
        return self.parameters + self.optimizer + self.batch + self.temporaries + self.other

    @property
    def fits(self) -> bool:
        return self.total <= self.capacity


def on_device(tree: Any) -> int:
    """Bytes of a tree of abstract arrays with shardings, on the device that holds the most."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def account(state: TrainState, batch: Any, capacity: float, compiled: Compiled) -> Memory:
    """Of a step, from its abstract arguments and what the compiler found."""
    return Memory(
        parameters=on_device((state.step, state.params, state.frozen, state.ema)),
        optimizer=on_device(state.opt_state),
        batch=on_device(batch),
        gradients=on_device(state.params),
        temporaries=compiled.temporaries,
        other=compiled.results - compiled.shared + compiled.code,
        capacity=capacity,
    )

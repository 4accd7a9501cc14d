"""FLOPs of a training step: forward ones, times what gradients make of them."""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from unijax.core import tree
from unijax.core.cost import Cost
from unijax.core.system import System, init_shapes
from unijax.train.stage import Rule


class Shares:
    """How much of a part trains, by the path of its parameters.

    Args:
      sizes: of every parameter, by path.
      rules: of every parameter, by path.
    """

    def __init__(self, sizes: Mapping[str, int], rules: Mapping[str, Rule]):
        self._sizes, self._rules = sizes, rules

    @classmethod
    def of(cls, system: System, rules: Mapping[str, Rule]) -> "Shares":
        shapes = tree.flatten(nn.unbox(init_shapes(system)))
        return cls({path: math.prod(x.shape) for path, x in shapes.items()}, rules)

    def __getitem__(self, group: str) -> float:
        """Of the numbers in `group`, the share that trains."""
        paths = [path for path in self._rules if tree.is_within(path, group)]
        assert paths, f"no parameters in {group!r}"
        whole = sum(self._sizes[p] for p in paths)
        return sum(self._sizes[p] for p in paths if not self._rules[p].frozen) / whole


def multiple(cost: Cost, shares: Shares, encoders: frozenset[str]) -> float:
    """Model FLOPs of a step for each of a forward pass, recomputation excluded.

    A part that trains costs three times its forward pass, a frozen part that gradients flow through
    twice, one of which a share trains as much in between; a frozen part on the input side, or one
    without gradients, once. Products of activations alone get all gradients: three times.
    """
    if cost.times is not None:
        return cost.times
    if not cost.backward:
        return 1.0
    if not cost.group:
        return 3.0
    share = shares[cost.group]
    if not share and cost.group.split("/")[0] in encoders:
        return 1.0
    return 2.0 + share


def training_flops(
    system: System, batch: Any, rules: Mapping[str, Rule], as_causal: bool = False
) -> Array:
    """Model FLOPs of a step, recomputation excluded. `as_causal`: see `System.amounts`."""
    shares, amounts = Shares.of(system, rules), system.amounts(batch, as_causal)
    total = jnp.zeros((), jnp.float32)
    for cost in system.costs:
        if cost.counted and cost.unit in amounts:
            each = multiple(cost, shares, system.encoders) * cost.forward
            total = total + amounts[cost.unit] * each
    return total

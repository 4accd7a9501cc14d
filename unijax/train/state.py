"""Everything that training changes, and how it begins."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from unijax.core import tree
from unijax.core.system import Params
from unijax.train.optimizer import GroupedOptimizer
from unijax.train.stage import Rule

Leaf = Any


@flax.struct.dataclass
class TrainState:
    """State of a run. Leaves are arrays, or whatever a tree of the same shape holds of them.

    Attributes:
      step: optimizer steps taken, int32.
      params: trained parameters, nested, in `param_dtype`.
      frozen: the other parameters, in compute dtype. Never changed by a step.
      opt_state: of `GroupedOptimizer`.
      ema: moving average of `params`, or None.
    """

    step: Leaf
    params: Leaf
    frozen: Leaf
    opt_state: Leaf
    ema: Leaf = None


def split(params: Params, rules: dict[str, Rule]) -> tuple[Params, Params]:
    """The trained and the frozen part of a nested tree."""
    flat = tree.flatten(params)
    trained = {p: x for p, x in flat.items() if not rules[p].frozen}
    frozen = {p: x for p, x in flat.items() if rules[p].frozen}
    return tree.unflatten(trained), tree.unflatten(frozen)


def merge(params: Params, frozen: Params) -> Params:
    """The inverse of `split`."""
    return tree.unflatten(tree.flatten(params) | tree.flatten(frozen))


def begin(
    params: Params,
    rules: dict[str, Rule],
    optimizer: GroupedOptimizer,
    frozen_dtype: DTypeLike,
    ema: bool,
) -> TrainState:
    """A fresh state: step 0, fresh optimizer, frozen parameters cast to `frozen_dtype`."""
    trained, frozen = split(params, rules)
    frozen = jax.tree.map(lambda x: x.astype(frozen_dtype), frozen)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=trained,
        frozen=frozen,
        opt_state=optimizer.init(trained),
        ema=jax.tree.map(jnp.copy, trained) if ema else None,
    )


def evaluation_params(state: TrainState) -> Params:
    """What is evaluated, sampled and exported: the moving average where one is kept."""
    return merge(state.params if state.ema is None else state.ema, state.frozen)

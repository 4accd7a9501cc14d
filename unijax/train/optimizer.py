"""The optimizer of a stage, built from its rules."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unijax.core import tree
from unijax.core.errors import UserError
from unijax.train.kinds import VERSIONS, Leaf, steps
from unijax.train.schedule import schedule
from unijax.train.stage import Rule, StageConfig


def _scale_by_leaf(multiples: Mapping[str, float | np.ndarray]) -> optax.GradientTransformation:
    """Multiples are of a leaf, or of each layer of one."""

    def scaled(x: jax.Array, multiple: float | np.ndarray) -> jax.Array:
        if isinstance(multiple, float):
            return x * multiple
        return x * multiple.astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1))

    def update(updates, state, params=None):
        del params
        flat = {p: scaled(u, multiples[p]) for p, u in tree.flatten(updates).items()}
        return tree.unflatten(flat), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def _multiple(rule: Rule, leaf: Leaf) -> float | np.ndarray:
    """Of the learning rate."""
    if rule.layer_decay == 1:
        return rule.lr_multiple
    return rule.lr_multiple * rule.layer_decay ** np.arange(leaf.layers, 0, -1)


class GroupedOptimizer:
    """One independent optimizer per disjoint group of trained parameters.

    The state is `{optimizer name: optax state}`; each optimizer sees its own parameters alone, so
    clipping is per group.

    Attributes:
      schedules: learning rates by optimizer.
      versions: of each one's state, as checkpoints record it.
    """

    def __init__(self, stage: StageConfig, rules: dict[str, Rule], leaves: dict[str, Leaf]):
        """`rules` and `leaves` are of the trained paths only.

        Raises:
          UserError: for a decay of layers where there are none.
        """
        self._paths = {
            name: sorted(p for p, r in rules.items() if r.optimizer == name)
            for name in stage.optimizers
        }
        for path, rule in rules.items():
            if rule.layer_decay != 1 and not leaves[path].layers:
                raise UserError(
                    f"stage {stage.name}: rule {rule.pattern!r}",
                    f"layer_decay={rule.layer_decay} for {path!r}",
                    "parameters of stacked layers",
                    "Give what stands before and after the layers rules of their own.",
                )
        self.schedules = {n: schedule(c, stage.steps) for n, c in stage.optimizers.items()}
        self.versions = {n: f"{c.kind} {VERSIONS[c.kind]}" for n, c in stage.optimizers.items()}
        self._clamps = {p: r.clamp for p, r in rules.items() if r.clamp}
        self._optimizers = {}
        for name, config in stage.optimizers.items():
            mine = {p: leaves[p] for p in self._paths[name]}
            transforms = steps(config, mine)
            multiples = {p: _multiple(rules[p], x) for p, x in mine.items()}
            if any(np.any(m != 1.0) for m in multiples.values()):
                transforms.append(_scale_by_leaf(multiples))
            transforms.append(optax.scale_by_learning_rate(self.schedules[name]))
            self._optimizers[name] = optax.chain(*transforms)

    def split(self, params: dict) -> dict[str, dict]:
        """The nested tree as one nested tree per optimizer."""
        flat = tree.flatten(params)
        return {n: tree.unflatten({p: flat[p] for p in ps}) for n, ps in self._paths.items()}

    def init(self, params: dict) -> dict:
        parts = self.split(params)
        return {name: opt.init(parts[name]) for name, opt in self._optimizers.items()}

    def norms(self, grads: dict) -> dict[str, jax.Array]:
        """The norm of each group's raw gradient."""
        return {name: optax.global_norm(part) for name, part in self.split(grads).items()}

    def update(self, grads: dict, state: dict, params: dict, apply: jax.Array) -> tuple[dict, dict]:
        """New parameters and new state; the old ones where `apply`, a bool scalar, is false.

        Schedules count the step in any case: they are functions of the step.
        """

        def chosen(new, old):
            if isinstance(new, optax.ScaleByScheduleState):
                return new
            return jax.tree.map(lambda n, o: jnp.where(apply, n, o), new, old)

        grads, parts = self.split(grads), self.split(params)
        flat, new_state = {}, {}
        for name, opt in self._optimizers.items():
            updates, new = opt.update(grads[name], state[name], parts[name])
            new_state[name] = jax.tree.map(
                chosen, new, state[name],
                is_leaf=lambda x: isinstance(x, optax.ScaleByScheduleState),
            )  # fmt: skip
            moved = tree.flatten(optax.apply_updates(parts[name], updates))
            for path, clamp in self._clamps.items():
                if path in moved:
                    moved[path] = jnp.clip(moved[path], *clamp)
            flat |= tree.flatten(chosen(tree.unflatten(moved), parts[name]))
        return tree.unflatten(flat), new_state

    def learning_rates(self, step: jax.Array) -> dict[str, jax.Array]:
        return {name: jnp.asarray(fn(step)) for name, fn in self.schedules.items()}

"""The optimizer of a stage, built from its rules."""

import jax
import jax.numpy as jnp
import optax

from unijax.core import tree
from unijax.train.stage import OptimizerConfig, Rule, StageConfig


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate as a function of the steps taken."""
    peak, warmup = config.learning_rate, config.warmup_steps
    rest = max(steps - warmup, 1)
    if config.schedule == "cosine":
        main = optax.cosine_decay_schedule(peak, rest)
    elif config.schedule == "constant_decay":
        decay = max(round(config.decay_fraction * rest), 1)
        main = optax.join_schedules(
            [optax.constant_schedule(peak), optax.linear_schedule(peak, 0.0, decay)],
            [rest - decay],
        )
    else:
        main = optax.constant_schedule(peak)
    if warmup == 0:
        return main
    # The first step already learns: at step s of the warm-up the rate is peak * (s + 1) / warmup.
    return optax.join_schedules(
        [optax.linear_schedule(peak / warmup, peak, warmup - 1), main], [warmup]
    )


def _scale_by_leaf(multiples: dict[str, float]) -> optax.GradientTransformation:
    def update(updates, state, params=None):
        del params
        flat = {p: u * multiples[p] for p, u in tree.flatten(updates).items()}
        return tree.unflatten(flat), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def decays(path: str, rule: Rule) -> bool:
    """Weight decay is for matrices, tables and convolution kernels, not for norms and biases."""
    return rule.decay and path.rsplit("/", 1)[-1] in ("kernel", "embedding")


def _group(config: OptimizerConfig, steps: int, rules: dict[str, Rule]):
    transforms = [
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(config.b1, config.b2, config.eps),
    ]
    if config.weight_decay:
        mask = tree.unflatten({p: decays(p, r) for p, r in rules.items()})
        transforms.append(optax.add_decayed_weights(config.weight_decay, mask))
    if any(r.lr_multiple != 1.0 for r in rules.values()):
        transforms.append(_scale_by_leaf({p: r.lr_multiple for p, r in rules.items()}))
    transforms.append(optax.scale_by_learning_rate(schedule(config, steps)))
    return optax.chain(*transforms)


class GroupedOptimizer:
    """One independent optimizer per disjoint group of trained parameters.

    The state is `{optimizer name: optax state}`; each optimizer sees its own parameters alone, so
    clipping is per group.
    """

    def __init__(self, stage: StageConfig, rules: dict[str, Rule]):
        """`rules` is the table of trained paths only."""
        self._paths = {
            name: sorted(p for p, r in rules.items() if r.optimizer == name)
            for name in stage.optimizers
        }
        self._optimizers = {
            name: _group(config, stage.steps, {p: rules[p] for p in self._paths[name]})
            for name, config in stage.optimizers.items()
        }
        self.schedules = {n: schedule(c, stage.steps) for n, c in stage.optimizers.items()}

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
            flat |= tree.flatten(chosen(optax.apply_updates(parts[name], updates), parts[name]))
        return tree.unflatten(flat), new_state

    def learning_rates(self, step: jax.Array) -> dict[str, jax.Array]:
        return {name: jnp.asarray(fn(step)) for name, fn in self.schedules.items()}

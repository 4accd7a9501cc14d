"""One optimizer step, and one evaluation step."""

import contextlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

from unijax.core.system import Metrics, System
from unijax.train.flops import training_flops
from unijax.train.lora import check_drops
from unijax.train.metrics import APPLIED, PART_NORM
from unijax.train.optimizer import GroupedOptimizer
from unijax.train.stage import Rule
from unijax.train.state import TrainState, evaluation_params, merge


def total_loss(sums: dict[str, Array], weights: dict[str, Array]) -> Array:
    """Sum over terms of sum / denominator; a term without weight contributes zero."""
    assert sums.keys() == weights.keys(), (sums.keys(), weights.keys())
    return sum(
        jnp.where(weights[k] > 0, sums[k] / jnp.where(weights[k] > 0, weights[k], 1.0), 0.0)
        for k in sums
    )


def _once(x: Array) -> tuple[Array, Array]:
    """A value of the step as (sum, weight), so that a report averages it over its steps."""
    return x.astype(jnp.float32), jnp.ones((), jnp.float32)


def in_parts(batch: Any, parts: int) -> Any:
    """Every leaf [B, ...] as [parts, B / parts, ...]: row i goes to part `i % parts`.

    So each device has as many rows of every part, and none of them moves.
    """
    return jax.tree.map(
        lambda x: x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1), batch
    )


def sum_over_parts(fn: Callable[[Any], Any], batch: Any, parts: int) -> Any:
    """The sum of `fn(part)`, a tree of arrays, over the parts of the batch, one after another."""
    if parts == 1:
        return fn(batch)
    split = in_parts(batch, parts)
    like = jax.eval_shape(fn, jax.tree.map(lambda x: x[0], split))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)

    def add(total, part):
        return jax.tree.map(jnp.add, total, fn(part)), None

    return jax.lax.scan(add, zeros, split)[0]


def make_train_step(
    system: System,
    optimizer: GroupedOptimizer,
    rules: dict[str, Rule],
    ema_decay: float,
    seed: int,
    parts: int = 1,
    shardings: Any = None,
) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    """`(state, batch) -> (state, metrics)`, to be jitted with the state donated.

    Where the loss or a gradient is not finite, parameters, moments and averages stay as they are;
    the step counts, and so do the schedules.

    Args:
      parts: the rows of a step are worked in so many parts, one after another, to the sums and
        gradients of the whole: denominators are those of the step. It divides the rows.
      shardings: of the trained parameters. Their gradients, of every part, lie likewise.
    """
    frozen_paths = frozenset(p for p, r in rules.items() if r.frozen)
    drops = any(path.endswith("/lora_dropout") for path in rules)

    def train_step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        weights = system.weights(batch)

        def work(part):
            def objective(params):
                whole = merge(params, state.frozen)
                sums, metrics = system.loss(whole, part, key, state.step, frozen_paths)
                return total_loss(sums, weights), metrics

            with nn.intercept_methods(check_drops) if drops else contextlib.nullcontext():
                values, grads = jax.value_and_grad(objective, has_aux=True)(state.params)
            if shardings is not None:
                grads = jax.lax.with_sharding_constraint(grads, shardings)
            return values, grads

        (loss, metrics), grads = sum_over_parts(work, batch, parts)
        norms = optimizer.norms(grads)
        # A step whose loss or gradient is not finite is not applied; the host reads of it later.
        applied = jnp.isfinite(loss) & jnp.all(jnp.isfinite(jnp.stack(list(norms.values()))))
        params, opt_state = optimizer.update(grads, state.opt_state, state.params, applied)
        ema = state.ema
        if ema is not None:
            # Early on the average follows closely, or it would remember the random start.
            decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
            ema = jax.tree.map(
                lambda e, p: jnp.where(applied, e + (1 - decay) * (p - e), e), ema, params
            )
        metrics = metrics | system.counts(batch)
        metrics["loss"] = _once(loss)
        metrics[APPLIED] = _once(applied)
        metrics["flops"] = _once(training_flops(system, batch, rules))
        metrics["flops_if_causal"] = _once(training_flops(system, batch, rules, as_causal=True))
        for name, value in norms.items():
            metrics[f"grad_norm/{name}"] = _once(value)
        for part, leaves in grads.items():
            metrics[f"{PART_NORM}{part}"] = _once(optax.global_norm(leaves))
        for name, value in optimizer.learning_rates(state.step).items():
            metrics[f"learning_rate/{name}"] = _once(value)
        state = state.replace(step=state.step + 1, params=params, opt_state=opt_state, ema=ema)
        return state, metrics

    return train_step


def make_eval_step(system: System) -> Callable[[TrainState, Any], Metrics]:
    """`(state, batch) -> metrics` on the parameters that would be exported."""

    def eval_step(state: TrainState, batch: Any) -> Metrics:
        params = evaluation_params(state)
        sums, metrics = system.loss(params, batch, None, state.step, frozenset())
        weights = system.weights(batch)
        # The objective over several batches is their sum over their weight, term by term.
        terms = {f"term/{k}": (sums[k], weights[k]) for k in sums}
        return metrics | system.counts(batch) | terms

    return eval_step

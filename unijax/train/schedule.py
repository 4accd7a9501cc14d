"""Learning rates as functions of the steps taken."""

import itertools
import math

import jax.numpy as jnp
import optax
from jax import Array

from unijax.core.errors import UserError
from unijax.train.stage import Knot, OptimizerConfig


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate as a function of the steps taken, in a stage of `steps`.

    Raises:
      UserError: for knots that are not in order.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    rest = max(steps - warmup, 1)
    if config.schedule == "knots":
        return _through(peak, _in_order(config.knots, steps))
    if config.schedule == "cosine":
        main = optax.cosine_decay_schedule(peak, rest, config.final_share)
    elif config.schedule == "constant_decay":
        decay = max(round(config.decay_fraction * rest), 1)
        final = peak * config.final_share
        main = optax.join_schedules(
            [optax.constant_schedule(peak), optax.linear_schedule(peak, final, decay)],
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


def _in_order(knots: tuple[Knot, ...], steps: int) -> list[tuple[int, Knot]]:
    """Each with its step counted from the start."""
    placed = [(k.step if k.step >= 0 else steps + k.step, k) for k in knots]
    at = [step for step, _ in placed]
    if any(later <= earlier for earlier, later in itertools.pairwise(at)):
        raise UserError(
            "stage.optimizers.*.knots",
            f"knots at the steps {at} in a stage of {steps}",
            "each after the one before",
            "Correct them, or stage.steps.",
        )
    return placed


def _through(peak: float, placed: list[tuple[int, Knot]]) -> optax.Schedule:
    def rate(step: Array | int) -> Array:
        share = jnp.float32(placed[0][1].share)
        for (start, before), (end, knot) in itertools.pairwise(placed):
            done = jnp.clip((step - start) / (end - start), 0, 1)
            here = _between(before.share, knot.share, done, end - start, knot.curve)
            share = jnp.where(step >= start, here, share)
            share = jnp.where(step >= end, knot.share, share)
        return peak * share

    return rate


def _between(a: float, b: float, done: Array, steps: int, curve: str) -> Array | float:
    """The share where `done`, from 0 to 1, of the `steps` from a to b is behind."""
    if curve == "constant":
        return a
    if curve == "exponential":
        return a * (b / a) ** done
    if curve == "inverse_sqrt":
        return ((1 - done) / a**2 + done / b**2) ** -0.5
    if curve == "cosine":
        done = (1 - jnp.cos(math.pi * done)) / 2
    if curve == "logarithmic":
        done = jnp.log1p(done * steps) / math.log1p(steps)
    return a + (b - a) * done

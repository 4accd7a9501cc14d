"""What the choice of runs leaves open, whatever their losses are: said in words beside a fit."""

from typing import Any

import numpy as np

from unijax.scaling.doubt import Doubt
from unijax.scaling.fit import Fit
from unijax.scaling.frontier import Frontier, budgets
from unijax.scaling.isoflop import Valley, bias
from unijax.scaling.laws import Chinchilla, Theta
from unijax.scaling.points import Points, clusters
from unijax.scaling.repeated import ONCE, Repeated, optimal_parameters, single_epoch
from unijax.scaling.table import Runs

RANGE = 8.0  # N and D should span at least this factor
SIZES = 4
LENGTHS = 3
ONE_LENGTH = np.log(1.05)  # of log D: runs nearer than this are of one length
RUNS_PER_CONSTANT = 3
NO_EFFECT = 1e-6  # of a coordinate on all losses together, as a share of them


def limits_of_runs(points: Points) -> list[str]:
    """What the choice of runs cannot tell, whatever the losses are."""
    found = []
    for name, values in (("parameters", points.parameters), ("tokens", points.tokens)):
        span = values.max() / values.min()
        if span < RANGE:
            found.append(
                f"{name} span a factor of {span:.1f} only (under {RANGE:g}): "
                "the exponent is hardly determined"
            )
    sizes = len(np.unique(points.parameters))
    if sizes < SIZES:
        found.append(f"{sizes} sizes only (under {SIZES})")
    n, d = np.log(points.parameters), np.log(points.tokens)
    lengths = clusters(d, ONE_LENGTH).max() + 1
    if lengths < LENGTHS:
        found.append(
            f"{lengths} lengths only (under {LENGTHS}): E, B and beta cannot be told apart"
        )
    if n.std() > 0 and d.std() > 0:
        together = np.corrcoef(n, d)[0, 1]
        if abs(together) > 0.95:
            found.append(
                f"log N and log D go together (correlation {together:.3f}), as at a fixed number "
                "of tokens per parameter: alpha and beta cannot be told apart"
            )
    return found


def doubts_of_epochs(points: Points, runs: Runs) -> list[Doubt]:
    """Tokens that were seen again, by the columns unique_tokens or epochs, as a law has no room."""
    if points.unique_tokens is not None:
        epochs = points.tokens / points.unique_tokens
    elif "epochs" in runs and runs["epochs"].dtype != object:
        epochs = np.nan_to_num(runs["epochs"], nan=1.0)
    else:
        return []
    again = epochs > ONCE
    if not again.any():
        return []
    return [
        Doubt(
            f"{again.sum()} runs saw their tokens up to {epochs.max():.3g} times, and this law "
            "counts repeated tokens as new ones: --repeated fits what they are worth",
            ("repeated",),
            tuple(str(i) for i in runs["run_id"][again]),
        )
    ]


def limits_of_fit(fitted: Fit, points: Any, draws: Theta) -> list[str]:
    """Signs that the minimum is flat, at an edge, or one of several."""
    found = []
    free = sum(fitted.law.free)
    if fitted.runs < RUNS_PER_CONSTANT * free:
        found.append(f"{fitted.runs} runs for {free} constants (under {RUNS_PER_CONSTANT} each)")
    for name in fitted.at_bounds():
        found.append(f"{name} ended at a bound of the search: the runs do not determine it")
    _, jacobian = fitted.law.predict(fitted.theta[None], points)
    relative = jacobian[0][:, list(fitted.law.free)] / points.loss[:, None]
    length = np.linalg.norm(relative, axis=0)
    free_names = [n for n, f in zip(fitted.law.names, fitted.law.free) if f]
    for name, effect in zip(free_names, length):
        if effect < NO_EFFECT and name not in fitted.at_bounds():
            found.append(f"{name} changes no run's loss here: the runs do not determine it")
    if (length > 0).all():
        condition = np.linalg.cond(relative / length)
        if condition > 300:
            found.append(
                f"ill-conditioned: the constants' effects on these runs are nearly the same "
                f"(condition number {condition:.0f})"
            )
    for theta, value in zip(fitted.minima[1:], fitted.values[1:]):
        if value < 1.05 * fitted.value:
            other = fitted.law.constants(theta[None])
            words = ", ".join(f"{k} {float(v[0]):.4g}" for k, v in other.items())
            found.append(
                f"another minimum is within {100 * (value / fitted.value - 1):.1f}%: {words}"
            )
            break
    if len(draws):
        edge = np.isclose(draws, fitted.law.lower) | np.isclose(draws, fitted.law.upper)
        share = edge[:, list(fitted.law.free)].any(axis=1).mean()
        if share > 0.05:
            found.append(f"{share:.0%} of the bootstrap's draws ended at a bound of the search")
    return found


def limits_of_repetition(fitted: Fit, points: Points) -> list[str]:
    """Single epochs that the law of repeated data counts otherwise than its base does.

    Args:
      fitted: a `Repeated`.
      points: of all runs, those of its base among them.
    """
    law: Repeated = fitted.law
    base = law.base.constants(law.base_theta[None])
    useful = optimal_parameters({k: v[:, None] for k, v in base.items()}, points.unique_tokens)[0]
    once = single_epoch(points)
    excess = (points.parameters / useful)[once]
    if excess.max() <= 1:
        return []
    return [
        f"{(excess > 1).sum()} of {once.sum()} runs of a single epoch have more parameters than "
        f"are optimal for their tokens, up to {excess.max():.3g} times as many: E, A, B, alpha and "
        "beta count these whole, the half-lives as worth less, which biases R_N and R_D; fit to "
        "runs of more tokens per parameter"
    ]


def limits_of_frontier(frontier: Frontier, points: Points) -> list[str]:
    """Budgets of the runs whose optimum, by the law, is a size that no run has."""
    flops = budgets(frontier.span)
    n = frontier.optimal_parameters(flops)
    found = []
    for outside, end, size in (
        (n < points.parameters.min(), "below the smallest", points.parameters.min()),
        (n > points.parameters.max(), "above the largest", points.parameters.max()),
    ):
        if outside.any():
            most = np.exp(np.abs(np.log(n / size))[outside].max())
            found.append(
                f"the law's optimum is {end} size ({size:.3g}), by up to a factor of {most:.3g}, "
                f"at {outside.sum()} of {len(n)} budgets over the runs' range: these runs do not "
                "enclose it"
            )
    return found


def limits_of_valleys(valleys: list[Valley]) -> list[str]:
    """Budgets whose runs lie on one side of the minimum."""
    found = []
    for v in valleys:
        if not v.inside:
            shape = "no minimum" if np.isnan(v.parameters) else "its minimum outside of its sizes"
            found.append(f"the budget of {v.flops:.2e} FLOPs has {shape}: one side of the valley")
    return found


def limits_of_approach_1(frontier: Frontier, draws: int) -> list[str]:
    """An envelope of few sizes, or one that most draws of the runs (of `draws`) do not have."""
    found = []
    if len(frontier.parameters) < SIZES:
        found.append(
            f"approach 1 rests on {len(frontier.parameters)} sizes that are ever the best between "
            "two neighbours"
        )
    if len(frontier.draws) < 0.9 * draws:
        found.append(
            f"approach 1 could be done for {len(frontier.draws)} of {draws} bootstrap draws, and "
            "its intervals are of these alone"
        )
    return found


def limits_of_approach_2(fitted: Fit, points: Points) -> list[str]:
    """Its bias on a noise-free copy of the runs."""
    if (
        not isinstance(fitted.law, Chinchilla)
        or (found := bias(fitted.law, fitted.theta, points)) is None
    ):
        return []
    exponent, ratio = found
    if abs(exponent) < 0.005 and abs(np.log(ratio)) < 0.05:
        return []
    return [
        f"approach 2 is biased here: on noise-free losses of the fitted law at these runs its "
        f"exponent a is off by {exponent:+.3f} and its N at the largest budget by "
        f"{100 * (ratio - 1):+.0f}%"
    ]

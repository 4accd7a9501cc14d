"""Parity FLOP ratio: the compute that one system needs to be as good as another one is.

Transfusion (arXiv 2408.11039, section 4.2): straight lines of log metric against log FLOPs; the
ratio is the FLOPs at which the system's line reaches the value that the other one has, over the
FLOPs that the other one took. Any metric with a power law will do, and one number of the reference:
`parity`, for published tables. Where both systems have runs that a law of the loss is fitted to,
the laws' own frontiers take the place of the lines: `parity_of_systems`.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from unijax.core.errors import UserError
from unijax.scaling.bootstrap import interval, resample
from unijax.scaling.fit import Fit
from unijax.scaling.frontier import losses, of_law, power_law
from unijax.scaling.laws import Theta
from unijax.scaling.points import Points, beyond

FARTHEST = 1e6  # ratios beyond it, either way, are told as it: also a loss that is never reached
EDGE = 1.01  # a budget so little beyond the runs is one of theirs
BUDGETS = 97  # evenly in log C over that range


@dataclasses.dataclass(frozen=True)
class Parity:
    """Below 1: the system needs less compute than the reference.

    Attributes:
      ratio: FLOPs to reach the reference's value, over the reference's FLOPs.
      low, high: its interval.
      beyond: by what factor the crossing lies outside of the compute of the system's runs; 1 where
        it is inside.
    """

    ratio: float
    low: float
    high: float
    beyond: float


def parity(
    flops: Float[np.ndarray, "n"],
    metric: Float[np.ndarray, "n"],
    reference_flops: float,
    reference_metric: float,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Parity:
    """Of a system's runs, one for each compute, against one number of a reference.

    The bootstrap is over the system's runs; the reference's value is taken as exact.

    Raises:
      UserError: with fewer than three runs, or a metric that is not positive or does not change.
    """
    values = np.append(metric, reference_metric)
    if len(flops) < 3 or not (np.isfinite(values).all() and (values > 0).all()):
        raise UserError(
            "parity FLOP ratio",
            f"{len(flops)} runs with values {values.min():g} to {values.max():g}",
            "three runs or more, of a finite metric above zero",
            "Add runs, or leave out those that failed.",
        )
    weights = np.ones((1, len(flops)))
    line = power_law(flops, metric[None], weights)
    if abs(line[0, 1]) < 1e-6:
        raise UserError(
            "parity FLOP ratio", "a metric that does not change with compute",
            "one that follows a power law", "Choose another metric.",
        )  # fmt: skip
    rng = np.random.default_rng(seed)
    counts = resample(rng, len(flops), draws, lambda here: np.sum(here) > 2).astype(float)
    lines = power_law(flops, np.broadcast_to(metric, counts.shape), counts)
    with np.errstate(divide="ignore"):
        crossing = lambda c: (np.log(reference_metric) - c[:, 0]) / c[:, 1]  # noqa: E731
        at, drawn = float(crossing(line)[0]), crossing(lines)
    low, high = interval(drawn - np.log(reference_flops), level)
    x = np.log(flops)
    factor = np.exp(max(0.0, x.min() - at, at - x.max()))
    ends = (float(np.exp(v)) for v in (at - np.log(reference_flops), low, high))
    return Parity(*ends, float(factor))


@dataclasses.dataclass(frozen=True)
class System:
    """A system's law with its bootstrap, and the runs behind it."""

    fitted: Fit
    draws: Theta
    points: Points


def parity_of_systems(system: System, reference: System, level: float, seed: int) -> Parity:
    """Of two systems' compute-optimal losses, at the largest compute of the reference's runs.

    By its law each system, of as many draws, has a least loss of a budget (approach 3); the ratio
    is the budget whose least loss by the system is the reference's at that compute, over it. A draw
    of the interval takes a draw of both laws. A line of the logarithms, as in `parity`, is for
    metrics that fall without end: losses end in a floor. Nor is anything chosen by its loss, as a
    best run would be: the choice scatters with the noise, and an interval given it does not hold.
    """
    budget = reference.points.compute.max()
    target = _least_losses(reference, np.array([budget]))[:, 0]
    order = np.random.default_rng(seed).permutation(len(reference.draws))
    target[1:] = target[1:][order]  # the same seed drew both systems' runs
    flops = budget * np.geomspace(1 / FARTHEST, FARTHEST, BUDGETS)
    thetas = np.vstack([system.fitted.theta, system.draws])
    floor = system.fitted.law.constants(thetas)["E"]
    least = _least_losses(system, flops)
    tiny = np.finfo(float).tiny
    # Above its floor the least loss is a power law where one k serves all sizes, or nearly one.
    away = -np.log(np.maximum(least - floor[:, None], tiny))
    wanted = -np.log(np.maximum(target - floor, tiny))
    log_ratio = np.log(flops / budget)
    found = np.array([np.interp(w, x, log_ratio) for w, x in zip(wanted, away)])
    low, high = interval(found[1:], level)
    at = np.exp(found[0]) * budget
    factor = beyond(system.points.compute, at)
    ends = (float(np.exp(v)) for v in (found[0], low, high))
    return Parity(*ends, factor if factor > EDGE else 1.0)


def _least_losses(system: System, flops: Float[np.ndarray, "c"]) -> Float[np.ndarray, "b c"]:
    """Along the frontier: by the fitted law first, then by each draw."""
    law, theta = system.fitted.law, system.fitted.theta
    best = of_law(law, theta, system.draws, system.points)
    sizes = np.vstack([best.optimal_parameters(flops), best.drawn_parameters(flops)])
    return losses(law, np.vstack([theta, system.draws]), sizes, best.cost.tokens(flops, sizes))

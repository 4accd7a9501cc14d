"""Parity FLOP ratio: the compute that one system needs to be as good as another one is.

Transfusion (arXiv 2408.11039, section 4.2): straight lines of log metric against log FLOPs; the
ratio is the FLOPs at which the system's line reaches the value that the other one has, over the
FLOPs that the other one took. Any metric with a power law will do: perplexity, FID, accuracy.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from unijax.core.errors import UserError
from unijax.scaling.bootstrap import interval, resample
from unijax.scaling.frontier import power_law
from unijax.scaling.points import Points

NEAREST = 4  # runs of a system that its line goes through, where the table has more


@dataclasses.dataclass(frozen=True)
class Parity:
    """Below 1: the system needs less compute than the reference.

    Attributes:
      ratio: FLOPs to reach the reference's value, over the reference's FLOPs.
      low, high: its interval.
      beyond: by what factor the crossing lies outside of the system's runs; 1 where it is inside.
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
    """Of a system's runs against one run of a reference. The bootstrap is over the system's runs.

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
    beyond = np.exp(max(0.0, x.min() - at, at - x.max()))
    ends = (float(np.exp(v)) for v in (at - np.log(reference_flops), low, high))
    return Parity(*ends, float(beyond))


def frontier_runs(points: Points) -> Int[np.ndarray, "m"]:
    """The runs that no cheaper or equally cheap run is as good as, by compute."""
    order = np.lexsort((points.loss, points.compute))
    best = np.minimum.accumulate(points.loss[order])
    return order[np.diff(best, prepend=np.inf) < 0]


def parity_of_systems(
    system: Points, reference: Points, draws: int, level: float, seed: int
) -> Parity:
    """Of two systems' perplexities, at the reference's best run.

    A system's runs are those that no cheaper run of its own is as good as, and of these the
    `NEAREST` to the reference's loss: losses end in a floor, so that a line through runs of all
    sizes misses the ratio by several times.

    Raises:
      UserError: as `parity`.
    """
    best = frontier_runs(reference)[-1]
    ours = system.take(frontier_runs(system))
    away = np.abs(ours.loss - reference.loss[best])
    ours = ours.take(np.sort(np.argsort(away, kind="stable")[:NEAREST]))
    return parity(
        ours.compute, np.exp(ours.loss), float(reference.compute[best]),
        float(np.exp(reference.loss[best])), draws, level, seed,
    )  # fmt: skip

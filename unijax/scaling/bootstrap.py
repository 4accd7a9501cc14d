"""Confidence intervals: the bootstrap over runs (Efron and Tibshirani 1993, chapter 6).

Runs are drawn with replacement and the law is fitted anew, a thousand times; an interval holds the
middle of what came out (percentiles). Quantiles widened for few runs (Hesterberg, arXiv 1411.5279)
hold the truth too often: docs/log.md.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from unijax.scaling.fit import Fit
from unijax.scaling.laws import Theta
from unijax.scaling.solver import minimise

FACTORS = (1.0, 0.7, 1.4)  # of the exponents: starts of a draw, the best minimum and beside it


def resample(
    rng: np.random.Generator, runs: int, draws: int, accept: Callable[[np.ndarray], bool]
) -> Int[np.ndarray, "draws runs"]:
    """How often each run was drawn. Draws that `accept` refuses are drawn again."""
    counts = np.zeros((draws, runs), np.int64)
    for row in counts:
        for _ in range(1000):
            row[:] = rng.multinomial(runs, np.full(runs, 1 / runs))
            if accept(row > 0):
                break
    return counts


def bootstrap(
    fitted: Fit,
    points: Any,
    draws: int,
    seed: int,
    weights: Float[np.ndarray, "draws n"] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Theta:
    """Coordinates [draws, p] of the law fitted to resampled runs.

    Args:
      weights: how often each run counts in each draw, in place of resampling here.
      progress: called with the number of draws done since the last call.
    """
    law, free = fitted.law, np.array(fitted.law.free)
    if weights is None:
        rng = np.random.default_rng(seed)

        def enough(here: np.ndarray) -> bool:
            several_sizes = len(np.unique(points.parameters[here])) > 1
            return np.sum(here) > sum(law.free) and several_sizes

        weights = resample(rng, len(points.loss), draws, enough).astype(float)
    searched = np.array(law.searched, int)
    starts = [fitted.theta]
    for factor in FACTORS[1:]:
        beside = law.start(factor * fitted.theta[None, searched], points)[0]
        starts.append(np.where(free, beside, fitted.theta))
    found = []
    for part in np.array_split(weights, max(1, len(weights) // 100)):
        begin = np.repeat(np.stack(starts), len(part), axis=0)
        solution = minimise(law, points, fitted.objective, begin, np.tile(part, (len(starts), 1)))
        values = solution.value.reshape(len(starts), len(part))
        best = np.argmin(values, axis=0)
        theta = solution.theta.reshape(len(starts), len(part), -1)
        found.append(theta[best, np.arange(len(part))])
        progress(len(part))
    return np.concatenate(found)


def interval(
    values: Float[np.ndarray, "draws *shape"], level: float
) -> Float[np.ndarray, "2 *shape"]:
    """The lower and upper end: percentiles."""
    tail = (1 - level) / 2
    return np.quantile(values, [tail, 1 - tail], axis=0)

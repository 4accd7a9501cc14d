"""Approach 1: the lower envelope of the sizes' curves of loss against compute.

Hoffmann et al. (arXiv 2203.15556, section 3.1): at each of 1,500 budgets, spaced evenly in log C,
the size with the least loss; then a line through (log C, log N). Our choices: a size's curve is
interpolated in log C between its runs (each run to its end, or decayed from a common trunk), never
beyond them, and the seeds of one size and compute are averaged.
"""

import numpy as np
from jaxtyping import Float

from unijax.core.errors import UserError
from unijax.scaling.bootstrap import resample
from unijax.scaling.cost import TokenCost
from unijax.scaling.frontier import Frontier, power_law, span
from unijax.scaling.points import Points

BUDGETS = 1500


def envelope(
    points: Points, budgets: int = BUDGETS
) -> tuple[Float[np.ndarray, "c"], Float[np.ndarray, "c"], Float[np.ndarray, "c"]]:
    """Budgets at which at least two sizes compete, with the best size and its loss at each."""
    sizes = np.unique(points.parameters)
    x = np.log(points.compute)
    grid = np.linspace(x.min(), x.max(), budgets)
    losses = np.full((len(sizes), budgets), np.inf)
    for i, size in enumerate(sizes):
        here = points.parameters == size
        at, where = np.unique(x[here], return_inverse=True)
        mean = np.bincount(where, points.loss[here]) / np.bincount(where)
        reached = (grid >= at[0]) & (grid <= at[-1])
        losses[i, reached] = np.interp(grid[reached], at, mean)
    compete = np.isfinite(losses).sum(axis=0) >= 2
    best = np.argmin(losses, axis=0)[compete]
    return np.exp(grid[compete]), sizes[best], losses[:, compete].min(axis=0)


def _line(points: Points) -> Float[np.ndarray, "2"] | None:
    flops, sizes, _ = envelope(points)
    if len(np.unique(sizes)) < 2:
        return None
    return power_law(flops, sizes[None], np.ones((1, len(flops))))[0]


def fit_envelope(points: Points, draws: int, seed: int) -> Frontier:
    """Approach 1's frontier.

    Raises:
      UserError: where fewer than two sizes are ever the best among several.
    """
    line = _line(points)
    if line is None:
        raise UserError(
            "approach 1",
            "fewer than two sizes that are best at some budget",
            "several token counts for each of several sizes",
            "Add runs of other lengths, or leave approach 1 out.",
        )
    rng = np.random.default_rng(seed)
    several = lambda here: len(np.unique(points.parameters[here])) > 1  # noqa: E731
    counts = resample(rng, len(points), draws, several)
    lines = [_line(points.take(np.repeat(np.arange(len(points)), row))) for row in counts]
    kept = [x for x in lines if x is not None]
    flops, sizes, _ = envelope(points)
    changes = np.flatnonzero(np.diff(sizes)) + 1
    middle = np.array([int(np.mean(part)) for part in np.split(np.arange(len(flops)), changes)])
    return Frontier(
        approach=1,
        line=line,
        draws=np.array(kept).reshape(-1, 2),
        cost=TokenCost(points),
        span=span(points),
        flops=flops[middle],
        parameters=sizes[middle],
    )

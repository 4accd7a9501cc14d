"""Approach 1: the lower envelope of the sizes' curves of loss against compute.

Hoffmann et al. (arXiv 2203.15556, section 3.1): at each of 1,500 budgets, spaced evenly in log C,
the size with the least loss; then a line through (log C, log N). Our choices: a size's curve is
interpolated in log C between its runs (each run to its end, or decayed from a common trunk), never
beyond them, and the seeds of one size and compute are averaged. A budget counts where the best
size's neighbours, the next smaller and the next larger, reach it too: what is best because the
curve of a better size has ended, or because no smaller one was run, says nothing of the optimum.
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
    """Budgets whose best size has both its neighbours beside it; that size and its loss at each."""
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
    best = np.argmin(losses, axis=0)
    alive = np.pad(np.isfinite(losses), ((1, 1), (0, 0)))  # beyond the ladder's ends there is none
    at = np.arange(budgets)
    enclosed = alive[best, at] & alive[best + 1, at] & alive[best + 2, at]
    best = best[enclosed]
    return np.exp(grid[enclosed]), sizes[best], losses[best, at[enclosed]]


def _line(
    flops: Float[np.ndarray, "c"], sizes: Float[np.ndarray, "c"]
) -> Float[np.ndarray, "2"] | None:
    if len(np.unique(sizes)) < 2:
        return None
    return power_law(flops, sizes[None], np.ones((1, len(flops))))[0]


def fit_envelope(points: Points, draws: int, seed: int) -> Frontier:
    """Approach 1's frontier.

    Raises:
      UserError: where fewer than two sizes are ever the best between two neighbours.
    """
    flops, sizes, _ = envelope(points)
    line = _line(flops, sizes)
    if line is None:
        raise UserError(
            "approach 1",
            f"{len(np.unique(sizes))} sizes that are the best at a budget which the next smaller "
            "and the next larger size reach too",
            "at least 2: elsewhere the best size is only the smallest or largest that was run, or "
            "the best of those whose curves have not ended",
            "Add sizes on both sides, and runs of other lengths.",
        )
    rng = np.random.default_rng(seed)
    several = lambda here: len(np.unique(points.parameters[here])) > 1  # noqa: E731
    counts = resample(rng, len(points), draws, several)
    drawn = (points.take(np.repeat(np.arange(len(points)), row)) for row in counts)
    lines = [_line(*envelope(some)[:2]) for some in drawn]
    kept = [x for x in lines if x is not None]
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

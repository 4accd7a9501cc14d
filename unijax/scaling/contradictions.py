"""What a fitted law and the measured runs cannot both be right about, and what runs say of others.

Nothing is fitted here: each is one comparison of numbers that anybody could make by hand, and that
somebody would make after the money is spent.
"""

import numpy as np
from jaxtyping import Float
from scipy import stats

from unijax.scaling.doubt import Doubt, names
from unijax.scaling.points import Points

SURE = (4.0, 0.01)  # deviations and log of a loss, where a comparison is with one run
WORSE = 1.05  # times the loss of a run with no more parameters and tokens: a fact to be told
TOLD_APART = (5.0, 0.02, 0.1)  # deviations; but at least and at most so much, in log of a loss
CHANCE = 1e-4  # that losses are equal by their rounding
MOST_COPIED = 0.5  # of the runs: more share their losses where these were read off a scale
NEAR = 0.02  # of a loss: pairs as near as that say how often two are equal by chance
DIGITS = 9  # of losses: more are as good as all
LN2 = float(np.log(2))
ROWS = 128  # of a comparison of all runs with all at one time


def floor_above_losses(floor: float, points: Points, ids: list[str]) -> list[Doubt]:
    """E above a loss that was measured."""
    below = points.loss < floor
    if not below.any():
        return []
    return [
        Doubt(
            f"E, the loss that nothing goes below, is {floor:.4g}, and less was measured, down to "
            f"{points.loss.min():.4g}: {names(ids, below)}; the law cannot hold there",
            runs=tuple(i for i, b in zip(ids, below) if b),
        )
    ]


def optima_worse_than_runs(
    flops: Float[np.ndarray, "c"],
    loss: Float[np.ndarray, "c"],
    points: Points,
    ids: list[str],
    scale: float,
) -> list[Doubt]:
    """Optima at budgets for which a run that cost no more was better.

    Args:
      flops, loss: budgets and what the law has for them at the best.
      scale: of single runs around the law. A budget within the runs' range is compared with what
        is better by more than chance, one beyond it with all.
    """
    worst, found = 0.0, None
    for c, best in zip(flops, loss):
        cheaper = points.compute <= c
        if not cheaper.any():
            continue
        i = np.argmin(np.where(cheaper, points.loss, np.inf))
        room = 0.0 if c > points.compute.max() else max(SURE[0] * scale, SURE[1])
        by = np.log(best / points.loss[i]) - room
        if by > worst:
            worst, found = by, (c, best, i)
    if found is None:
        return []
    c, best, i = found
    return [
        Doubt(
            f"the law's optimum at {c:.3g} FLOP has a loss of {best:.4g}, and {ids[i]} measured "
            f"{points.loss[i]:.4g} with {points.compute[i]:.3g} FLOP: a run that was cheaper is "
            "better than the best that the law knows",
            runs=(ids[i],),
        )
    ]


def worse_than_smaller(points: Points, ids: list[str], scale: float) -> list[Doubt]:
    """Runs that are worse than one with no more parameters and tokens, by more than chance."""
    most = np.zeros(len(points))
    than = np.zeros(len(points), int)
    log = np.log(points.loss)
    for first in range(0, len(points), ROWS):
        here = slice(first, first + ROWS)
        no_more = (points.parameters <= points.parameters[here, None]) & (
            points.tokens <= points.tokens[here, None]
        )
        best = np.where(no_more, log, np.inf)
        than[here] = np.argmin(best, axis=1)
        most[here] = log[here] - best.min(axis=1)
    worse = most > max(np.log(WORSE), 2 * SURE[0] * scale)
    if not worse.any():
        return []
    i = int(np.argmax(most))
    return [
        Doubt(
            "worse than a run with no more parameters and tokens, by up to "
            f"{np.expm1(most[i]):.0%} ({ids[i]}: {points.loss[i]:.4g}, {ids[than[i]]}: "
            f"{points.loss[than[i]]:.4g}): {names(ids, worse)}. So it is where models are too "
            "large for their data or rates, where tokens are seen again, and where runs diverged; "
            "the law has no room for it",
            runs=tuple(i for i, b in zip(ids, worse) if b),
        )
    ]


def equal_losses(
    points: Points, ids: list[str], predicted: Float[np.ndarray, "n"], scale: float
) -> list[Doubt]:
    """Losses that are equal to the last digit, of runs that should differ.

    Either they have more digits than chance can repeat; or, as rounded losses of runs that are
    about as good are equal, too, the law tells them apart.
    """
    _, group, many = np.unique(points.loss, return_inverse=True, return_counts=True)
    shared = many[group] > 1
    if not shared.any():
        return []
    pairs = int((many * (many - 1)).sum()) // 2
    alike = shared
    if shared.mean() > MOST_COPIED or by_chance(points.loss, pairs) > CHANCE:
        order = np.argsort(group, kind="stable")
        law, first = np.log(predicted[order]), np.searchsorted(group[order], np.arange(len(many)))
        apart = np.maximum.reduceat(law, first) - np.minimum.reduceat(law, first)
        alike = shared & (apart > np.clip(TOLD_APART[0] * scale, *TOLD_APART[1:]))[group]
        if alike.sum() <= (shared & ~alike).sum():  # of losses read off a scale most are shared
            return []
    return [
        Doubt(
            f"{alike.sum()} runs share losses to the last digit with runs that should be better or "
            f"worse ({names(ids, alike)}): they look copied from one row to others",
            ("copied",),
            tuple(i for i, a in zip(ids, alike) if a),
        )
    ]


def by_chance(loss: Float[np.ndarray, "n"], pairs: int) -> float:
    """The probability that so many pairs of losses are equal because they were rounded."""
    order = np.sort(loss)
    near = np.searchsorted(order, order * (1 + NEAR), side="right") - np.arange(1, len(order) + 1)
    # How many pairs are as near as NEAR, and the share of these that one step of rounding makes.
    expected = near.sum() * min(_step(loss) / (NEAR * float(np.median(loss))), 1.0)
    return float(stats.poisson.sf(pairs - 1, expected))


def _step(loss: Float[np.ndarray, "n"]) -> float:
    """Between neighbouring losses, where they, their perplexities or their bits were rounded."""
    found = 10.0**-DIGITS
    for values, slope in ((loss, 1.0), (np.exp(loss), np.exp(loss)), (loss / LN2, 1 / LN2)):
        for digits in range(DIGITS):
            if np.allclose(values, np.round(values, digits), rtol=1e-12, atol=0):
                found = max(found, 10.0**-digits / float(np.median(slope)))
                break
    return found

"""Approach 2: a parabola of loss against log N at each budget, then a line through the minima.

Hoffmann et al. (arXiv 2203.15556, section 3.2). A parabola is symmetric and a valley is not, unless
alpha = beta; so the minima are biased, the more the wider and the less centred the sizes lie (Czech
et al., arXiv 2603.22339). `bias` says by how much for the runs at hand.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from unijax.core.errors import UserError
from unijax.scaling.cost import TokenCost
from unijax.scaling.frontier import Frontier, of_law, power_law, span
from unijax.scaling.laws import Law
from unijax.scaling.points import Points, clusters

SIZES = 3  # different sizes that a budget needs for a parabola
ONE_SIZE = np.log(1.1)  # of log N: runs nearer than this bend no parabola
CONSTANTS = 3  # of a parabola
SAME_BUDGET = (0.12, 0.03, 0.0075)  # of log C: the most between two runs of one budget, or less
AROUND = 0.6  # of log C, on both sides: the runs that a budget must stand out from
CHANCE = 0.05  # that of all groups of a table any is a budget by chance: two have to be surer
ONE_MORE = 3e-3  # that a group is one by chance, where budgets are what a table is made of


@dataclasses.dataclass(frozen=True)
class Valley:
    """The runs of one budget and the parabola through them.

    Attributes:
      runs: indices into the points.
      flops: of the budget: the geometric mean of its runs.
      curve: coefficients of loss = curve[0] + curve[1] x + curve[2] x^2, x = log N - `center`.
      parameters: N of the minimum; NaN where the parabola has none.
      inside: whether runs lie on both sides of the minimum.
    """

    runs: Int[np.ndarray, "m"]
    flops: float
    center: float
    curve: Float[np.ndarray, "3"]
    parameters: float
    inside: bool

    @property
    def loss(self) -> float:
        """At the minimum."""
        x = np.log(self.parameters) - self.center
        return float(self.curve @ np.array([1.0, x, x * x]))


def budgets(points: Points) -> list[Int[np.ndarray, "m"]]:
    """Runs of (nearly) equal compute, for every budget with sizes enough.

    Many more than the runs around would have there: where compute has no gaps, runs that are each
    near to the next are of no budget. The least likely ones are taken first.
    """
    order = np.argsort(points.compute, kind="stable")
    log, size = np.log(points.compute[order]), points.parameters[order]
    first = np.arange(len(log))
    windows, chances = [], []
    for width in SAME_BUDGET:
        end, middle = np.searchsorted(log, log + width, side="right"), log + width / 2
        around = np.clip([middle - AROUND, middle + AROUND], log[0], log[-1])
        near = np.searchsorted(log, around[1], side="right") - np.searchsorted(log, around[0])
        others = near - (end - first) + 0.5  # none there does not mean none ever
        expected = others * width / np.maximum(around[1] - around[0], AROUND)
        windows.append(np.stack([first, end], axis=1))
        # The first run is there whatever chance does.
        chances.append(stats.poisson.sf(end - first - 2, expected))
    windows, chances = np.concatenate(windows), np.concatenate(chances)
    taken, found = np.zeros(len(log), bool), []
    sure = 0
    for i in np.argsort(chances, kind="stable")[: (chances < ONE_MORE).sum()]:
        here = slice(*windows[i])
        if not taken[here].any() and clusters(np.log(size[here]), ONE_SIZE).max() + 1 >= SIZES:
            taken[here] = True
            found.append(here)
            sure += chances[i] * len(chances) < CHANCE
    if sure < 2:
        return []
    return [order[here] for here in sorted(found, key=lambda here: here.start)]


def _design(x: Float[np.ndarray, "m"]) -> Float[np.ndarray, "m 3"]:
    return np.stack([np.ones_like(x), x, x * x], axis=1)


def _minima(curves: Float[np.ndarray, "b 3"], center: float) -> Float[np.ndarray, "b"]:
    """N of each parabola's minimum; NaN where it opens downwards."""
    up = curves[:, 2] > 0
    at = -curves[:, 1] / (2 * np.where(up, curves[:, 2], 1.0))
    return np.where(up, np.exp(np.clip(center + at, -700, 700)), np.nan)


def valleys(points: Points) -> list[Valley]:
    """Of every budget with three sizes or more, by rising compute."""
    found = []
    for runs in budgets(points):
        x = np.log(points.parameters[runs])
        center = float(x.mean())
        curve = np.linalg.lstsq(_design(x - center), points.loss[runs])[0]
        minimum = float(_minima(curve[None], center)[0])
        inside = bool(x.min() < np.log(minimum) < x.max()) if np.isfinite(minimum) else False
        flops = float(np.exp(np.log(points.compute[runs]).mean()))
        found.append(Valley(runs, flops, center, curve, minimum, inside))
    return found


def fit_isoflop(points: Points, draws: int, seed: int) -> tuple[Frontier, list[Valley]]:
    """Approach 2's frontier, through the minima that runs lie around, and all valleys.

    The bootstrap draws residuals, of all these budgets together, onto the parabolas (Efron and
    Tibshirani 1993, section 9.4): draws of runs hold few different sizes, and their parabolas swing
    more than those of other studies would. A draw whose minimum is not among a budget's sizes
    leaves that budget out.

    Raises:
      UserError: with fewer than two budgets whose minimum lies among their sizes, or none of them
        with more runs than a parabola has constants.
    """
    found = valleys(points)
    used = [v for v in found if v.inside]
    if len(used) < 2:
        raise UserError(
            "approach 2",
            f"{len(used)} of {len(found)} budgets with a minimum among their sizes",
            f"at least 2, each of {SIZES} sizes or more",
            "Add sizes on both sides of the minima, or leave approach 2 out.",
        )
    if max(len(v.runs) for v in used) <= CONSTANTS:
        raise UserError(
            "approach 2", f"{CONSTANTS} runs at each budget, through which a parabola goes exactly",
            "more at one budget at least, to tell how far it is off", "Add sizes or seeds.",
        )  # fmt: skip
    flops = np.array([v.flops for v in used])
    minima = np.array([v.parameters for v in used])
    line = power_law(flops, minima[None], np.ones((1, len(used))))[0]
    drawn = _draw_minima(points, used, draws, seed)
    kept = np.isfinite(drawn)
    whole = kept.sum(axis=1) >= 2
    lines = power_law(flops, drawn[whole], kept[whole].astype(float))
    return Frontier(2, line, lines, TokenCost(points), span(points), flops, minima), found


def _draw_minima(
    points: Points, used: list[Valley], draws: int, seed: int
) -> Float[np.ndarray, "draws b"]:
    """Minima of the bootstrap; NaN where one is not among the sizes of its budget."""
    designs = [_design(np.log(points.parameters[v.runs]) - v.center) for v in used]
    residuals = []
    for valley, design in zip(used, designs):
        if (m := len(design)) > CONSTANTS:
            off = points.loss[valley.runs] - design @ valley.curve
            # Residuals of a fit are smaller than the errors by the share of fitted constants.
            residuals.append(off * np.sqrt(m / (m - CONSTANTS)))
    pool = np.concatenate(residuals)
    pool -= pool.mean()
    rng = np.random.default_rng(seed)
    drawn = np.empty((draws, len(used)))
    for i, (valley, design) in enumerate(zip(used, designs)):
        losses = design @ valley.curve + rng.choice(pool, size=(draws, len(design)))
        at = _minima(losses @ np.linalg.pinv(design).T, valley.center)
        n = points.parameters[valley.runs]
        with np.errstate(invalid="ignore"):
            drawn[:, i] = np.where((at > n.min()) & (at < n.max()), at, np.nan)
    return drawn


def bias(law: Law, theta: Float[np.ndarray, "p"], points: Points) -> tuple[float, float] | None:
    """What approach 2 makes of the law itself, without noise, at the runs at hand.

    Returns:
      Its error in the exponent a, and the ratio of its N to the true optimum at the largest budget;
      None where approach 2 cannot be done.
    """
    clean = dataclasses.replace(points, loss=law.predict(theta[None], points)[0][0])
    try:
        frontier, _ = fit_isoflop(clean, 0, 0)
    except UserError:
        return None
    largest = np.array([points.compute.max()])
    none = np.empty((0, len(theta)))
    optima = of_law(law, theta, none, points).optimal_parameters(np.append(frontier.flops, largest))
    truth = power_law(frontier.flops, optima[None, :-1], np.ones((1, len(frontier.flops))))[0]
    ratio = frontier.optimal_parameters(largest) / optima[-1]
    return float(frontier.line[1] - truth[1]), float(ratio[0])

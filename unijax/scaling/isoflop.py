"""Approach 2: a parabola of loss against log N at each budget, then a line through the minima.

Hoffmann et al. (arXiv 2203.15556, section 3.2). A parabola is symmetric and a valley is not, unless
alpha = beta; so the minima are biased, the more the wider and the less centred the sizes lie (Czech
et al., arXiv 2603.22339). `bias` says by how much for the runs at hand.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from unijax.core.errors import UserError
from unijax.scaling.frontier import Frontier, flops_per_pair, optima_by_search, power_law
from unijax.scaling.laws import Law
from unijax.scaling.points import Points

SIZES = 3  # different sizes that a budget needs for a parabola
SAME_BUDGET = 0.12  # of log C: runs nearer than this to the next one belong to one budget


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
    """Runs of (nearly) equal compute, for every budget with sizes enough."""
    order = np.argsort(points.compute, kind="stable")
    jumps = np.flatnonzero(np.diff(np.log(points.compute[order])) > SAME_BUDGET) + 1
    groups = np.split(order, jumps)
    return [g for g in groups if len(np.unique(points.parameters[g])) >= SIZES]


def _parabolas(
    x: Float[np.ndarray, "m"], loss: Float[np.ndarray, "m"], weights: Float[np.ndarray, "b m"]
) -> Float[np.ndarray, "b 3"]:
    design = np.stack([np.ones_like(x), x, x * x], axis=1)
    normal = np.einsum("bm,mi,mj->bij", weights, design, design)
    right = np.einsum("bm,mi,m->bi", weights, design, loss)
    # A draw may hold two sizes only: the ridge keeps it solvable; `fit_isoflop` leaves it out.
    ridge = 1e-12 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(3)
    return np.linalg.solve(normal + ridge, right[..., None])[..., 0]


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
        curve = _parabolas(x - center, points.loss[runs], np.ones((1, len(runs))))
        minimum = float(_minima(curve, center)[0])
        inside = bool(x.min() < np.log(minimum) < x.max()) if np.isfinite(minimum) else False
        flops = float(np.exp(np.log(points.compute[runs]).mean()))
        found.append(Valley(runs, flops, center, curve[0], minimum, inside))
    return found


def fit_isoflop(points: Points, draws: int, seed: int) -> tuple[Frontier, list[Valley]]:
    """Approach 2's frontier, through the minima that runs lie around, and all valleys.

    The bootstrap draws runs within each budget; a draw of fewer than three sizes, whose parabola
    is any, or without a minimum among its sizes leaves that budget out.

    Raises:
      UserError: with fewer than two budgets whose minimum lies among their sizes.
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
    rng = np.random.default_rng(seed)
    flops = np.array([v.flops for v in used])
    minima = np.array([v.parameters for v in used])
    drawn = np.empty((draws, len(used)))
    for i, valley in enumerate(used):
        m = len(valley.runs)
        weights = rng.multinomial(m, np.full(m, 1 / m), size=draws).astype(float)
        x = np.log(points.parameters[valley.runs])
        curves = _parabolas(x - valley.center, points.loss[valley.runs], weights)
        at = _minima(curves, valley.center)
        sizes = sum((weights[:, x == size] > 0).any(axis=1).astype(int) for size in np.unique(x))
        with np.errstate(invalid="ignore"):
            inside = (sizes >= SIZES) & (np.log(at) > x.min()) & (np.log(at) < x.max())
        drawn[:, i] = np.where(inside, at, np.nan)
    k, _ = flops_per_pair(points)
    line = power_law(flops, minima[None], np.ones((1, len(used))))[0]
    kept = np.isfinite(drawn)
    whole = kept.sum(axis=1) >= 2
    lines = power_law(flops, drawn[whole], kept[whole].astype(float))
    return Frontier(2, line, lines, k, flops, minima), found


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
    optima = optima_by_search(law, theta, points, np.append(frontier.flops, largest))
    truth = power_law(frontier.flops, optima[None, :-1], np.ones((1, len(frontier.flops))))[0]
    ratio = frontier.optimal_parameters(largest) / optima[-1]
    return float(frontier.line[1] - truth[1]), float(ratio[0])

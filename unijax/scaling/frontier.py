"""The compute-optimal frontier: which N and D to spend a budget C on, by three approaches.

Every approach of Hoffmann et al. (arXiv 2203.15556, section 3) ends in a power law,
log N = intercept + slope log C, with D = C / (k N). That is what a `Frontier` holds, so that they
can be drawn and compared side by side. Approach 3 is here; 1 is `envelope`, 2 is `isoflop`.
"""

import dataclasses

import numpy as np
from jaxtyping import Float
from scipy.interpolate import CubicSpline

from unijax.scaling.bootstrap import interval
from unijax.scaling.laws import Law, Theta
from unijax.scaling.points import Points


@dataclasses.dataclass(frozen=True)
class Frontier:
    """log N = line[0] + line[1] log C.

    Attributes:
      approach: 1, 2 or 3.
      line: intercept and slope.
      draws: [draws, 2], the lines of the bootstrap.
      flops_per_pair: k of C = k N D, for a parameter and a token.
      flops, parameters: [m], the optima that the line goes through (none for approach 3).
    """

    approach: int
    line: Float[np.ndarray, "2"]
    draws: Float[np.ndarray, "draws 2"]
    flops_per_pair: float
    flops: Float[np.ndarray, "m"]
    parameters: Float[np.ndarray, "m"]

    @property
    def exponents(self) -> tuple[float, float]:
        """a and b of N ~ C^a, D ~ C^b."""
        return float(self.line[1]), float(1 - self.line[1])

    def exponent_interval(self, level: float) -> Float[np.ndarray, "2"]:
        """Of a; that of b is one minus it."""
        return interval(self.draws[:, 1], level)

    def optimal_parameters(self, flops: Float[np.ndarray, "c"]) -> Float[np.ndarray, "c"]:
        """N for each budget."""
        return np.exp(self.line[0] + self.line[1] * np.log(flops))

    def optimal_tokens(self, flops: Float[np.ndarray, "c"]) -> Float[np.ndarray, "c"]:
        """D for each budget."""
        return flops / (self.flops_per_pair * self.optimal_parameters(flops))

    def parameter_interval(
        self, flops: Float[np.ndarray, "c"], level: float
    ) -> Float[np.ndarray, "2 c"]:
        """Of N."""
        lines = self.draws[:, :1] + self.draws[:, 1:] * np.log(flops)
        return np.exp(interval(lines, level))

    def token_interval(
        self, flops: Float[np.ndarray, "c"], level: float
    ) -> Float[np.ndarray, "2 c"]:
        """Of D: that of N, turned over."""
        return flops / (self.flops_per_pair * self.parameter_interval(flops, level)[::-1])


def flops_per_pair(points: Points) -> tuple[float, float]:
    """k of C = k N D, the median over runs, and the ratio of its largest to its smallest value.

    It is 6 where compute was counted as 6 N D. With attention and heads counted it differs between
    sizes; the ratio says how far a single k is from the truth.
    """
    k = points.compute / (points.parameters * points.tokens)
    return float(np.median(k)), float(k.max() / k.min())


def power_law(
    flops: Float[np.ndarray, "m"],
    parameters: Float[np.ndarray, "b m"],
    weights: Float[np.ndarray, "b m"],
) -> Float[np.ndarray, "b 2"]:
    """Least-squares lines through (log flops, log parameters)."""
    x = np.log(flops)
    y = np.where(weights > 0, np.log(np.where(weights > 0, parameters, 1.0)), 0.0)
    total = weights.sum(axis=1)
    middle_x, middle_y = (weights * x).sum(axis=1) / total, (weights * y).sum(axis=1) / total
    dx = x - middle_x[:, None]
    slope = (weights * dx * y).sum(axis=1) / (weights * dx * dx).sum(axis=1)
    return np.stack([middle_y - slope * middle_x, slope], axis=1)


def closed_form(law: Law, theta: Theta, k: float) -> Float[np.ndarray, "b 2"]:
    """Approach 3: the lines along which E + A N^-alpha + B D^-beta is least at k N D = C.

    Equation 4: N = G (C / k)^(beta / (alpha + beta)) with
    G = (alpha A / (beta B))^(1 / (alpha + beta)).
    """
    c = law.constants(theta)
    both = c["alpha"] + c["beta"]
    ratio = np.log(c["alpha"]) + np.log(c["A"]) - np.log(c["beta"]) - np.log(c["B"])
    slope = c["beta"] / both
    return np.stack([ratio / both - slope * np.log(k), slope], axis=1)


def of_law(law: Law, theta: Float[np.ndarray, "p"], draws: Theta, points: Points) -> Frontier:
    """Approach 3's frontier of a fitted law."""
    k, _ = flops_per_pair(points)
    none = np.zeros(0)
    line, lines = closed_form(law, theta[None], k)[0], closed_form(law, draws, k)
    return Frontier(3, line, lines, k, none, none)


def optima_by_search(
    law: Law, theta: Float[np.ndarray, "p"], points: Points, flops: Float[np.ndarray, "c"]
) -> Float[np.ndarray, "c"]:
    """N of the law's least loss for each budget, by search.

    Compute over N D is what the runs of each size have, a spline of logarithms between sizes: where
    it differs between them the closed form is off, which takes one value for all.
    """
    x = np.round(np.log(points.parameters), 6)
    sizes, where = np.unique(x, return_inverse=True)
    log_k = np.log(points.compute / (points.parameters * points.tokens))
    k = CubicSpline(sizes, np.bincount(where, log_k) / np.bincount(where), bc_type="natural")
    grid = np.linspace(sizes[0] - 1, sizes[-1] + 1, 4000)
    n = np.exp(grid)
    found = []
    for budget in flops:
        d = budget / (n * np.exp(k(grid)))
        loss = law.predict(theta[None], Points(n, d, n))[0][0]
        i = int(np.clip(np.argmin(loss), 1, len(grid) - 2))
        down, up = loss[i - 1] - loss[i], loss[i + 1] - loss[i]
        shift = np.clip(
            (down - up) / (2 * max(down + up, 1e-300)), -1, 1
        )  # to the parabola's least
        found.append(np.exp(grid[i] + shift * (grid[1] - grid[0])))
    return np.array(found)


def optimal_loss(
    law: Law, theta: Theta, lines: Float[np.ndarray, "b 2"], k: float, flops: Float[np.ndarray, "c"]
) -> Float[np.ndarray, "b c"]:
    """The law's loss along each line, for each budget."""
    c = {name: value[:, None] for name, value in law.constants(theta).items()}
    log_n = lines[:, :1] + lines[:, 1:] * np.log(flops)
    log_d = np.log(flops / k) - log_n
    a = np.exp(np.log(c["A"]) - c["alpha"] * log_n)
    return c["E"] + a + np.exp(np.log(c["B"]) - c["beta"] * log_d)

"""The compute-optimal frontier: which N and D to spend a budget C on, by three approaches.

Each approach of Hoffmann et al. (arXiv 2203.15556, section 3) gives the optimal N of a budget; D is
C / (k(N) N), with what tokens cost at each size (`cost`). Approaches 1 (`envelope`) and 2
(`isoflop`) end in a power law, log N = intercept + slope log C: a `Frontier`. Approach 3 is the
least of the fitted law's loss along a budget: where one k serves all sizes a power law too, in
closed form, and a curve where it does not: a `Curve`, whose line is the power law nearest to it in
the runs' range of compute.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from unijax.scaling.bootstrap import interval
from unijax.scaling.cost import TokenCost
from unijax.scaling.laws import Law, Theta
from unijax.scaling.points import Points

BUDGETS = 9  # evenly in log C over the runs, through whose optima a curve's line goes
FAR = 40.0  # of log N: how far beyond the sizes an optimum is searched
NEAR = 4.0  # of log N: so far beyond the sizes there may be a second minimum
COARSE, FINE = 1.0, 0.1  # steps of that search in log N, far from the sizes and near them
HALVINGS = 36  # of a step: to 1e-11
TRIED = 3  # minima of the grid: two about as deep may stand in the other order on so coarse a one


@dataclasses.dataclass(frozen=True)
class Frontier:
    """log N = line[0] + line[1] log C.

    Attributes:
      approach: 1, 2 or 3.
      line: intercept and slope.
      draws: [draws, 2], the lines of the bootstrap.
      cost: k of C = k(N) N D.
      span: the least and the largest compute of the runs.
      flops, parameters: [m], the optima that the line goes through (none for approach 3).
    """

    approach: int
    line: Float[np.ndarray, "2"]
    draws: Float[np.ndarray, "draws 2"]
    cost: TokenCost
    span: tuple[float, float]
    flops: Float[np.ndarray, "m"]
    parameters: Float[np.ndarray, "m"]

    def drawn_parameters(self, flops: Float[np.ndarray, "c"]) -> Float[np.ndarray, "draws c"]:
        """N for each budget by each draw of the bootstrap."""
        return np.exp(self.draws[:, :1] + self.draws[:, 1:] * np.log(flops))

    def optimal_parameters(self, flops: Float[np.ndarray, "c"]) -> Float[np.ndarray, "c"]:
        """N for each budget."""
        return np.exp(self.line[0] + self.line[1] * np.log(flops))

    def optimal_tokens(self, flops: Float[np.ndarray, "c"]) -> Float[np.ndarray, "c"]:
        """D for each budget."""
        return self.cost.tokens(flops, self.optimal_parameters(flops))

    @property
    def exponents(self) -> tuple[float, float]:
        """a and b of N ~ C^a and D ~ C^b, in the range of the runs."""
        flops = budgets(self.span)
        return float(self.line[1]), float(_slopes(flops, self.optimal_tokens(flops)[None])[0])

    def exponent_intervals(
        self, level: float
    ) -> tuple[Float[np.ndarray, "2"], Float[np.ndarray, "2"]]:
        """Of a and of b."""
        flops = budgets(self.span)
        tokens = self.cost.tokens(flops, self.drawn_parameters(flops))
        return interval(self.draws[:, 1], level), interval(_slopes(flops, tokens), level)

    def parameter_interval(
        self, flops: Float[np.ndarray, "c"], level: float
    ) -> Float[np.ndarray, "2 c"]:
        """Of N."""
        return interval(self.drawn_parameters(flops), level)

    def token_interval(
        self, flops: Float[np.ndarray, "c"], level: float
    ) -> Float[np.ndarray, "2 c"]:
        """Of D."""
        return interval(self.cost.tokens(flops, self.drawn_parameters(flops)), level)


@dataclasses.dataclass(frozen=True)
class Curve(Frontier):
    """Approach 3 where k differs between sizes: N is searched for, budget by budget.

    Attributes:
      law, theta: the fitted law.
      thetas: [draws, p], of the bootstrap.
      sizes: the smallest and the largest of the runs.
    """

    law: Law
    theta: Float[np.ndarray, "p"]
    thetas: Theta
    sizes: tuple[float, float]

    def drawn_parameters(self, flops: Float[np.ndarray, "c"]) -> Float[np.ndarray, "draws c"]:
        return search(self.law, self.thetas, self.cost, self.sizes, flops)

    def optimal_parameters(self, flops: Float[np.ndarray, "c"]) -> Float[np.ndarray, "c"]:
        return search(self.law, self.theta[None], self.cost, self.sizes, flops)[0]


def span(points: Points) -> tuple[float, float]:
    """The least and the largest compute of runs."""
    return float(points.compute.min()), float(points.compute.max())


def budgets(ends: tuple[float, float]) -> Float[np.ndarray, "c"]:
    """Evenly in log C."""
    return np.geomspace(*ends, BUDGETS)


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


def _slopes(
    flops: Float[np.ndarray, "c"], values: Float[np.ndarray, "b c"]
) -> Float[np.ndarray, "b"]:
    return power_law(flops, values, np.ones(values.shape))[:, 1]


def closed_form(law: Law, theta: Theta, k: float) -> Float[np.ndarray, "b 2"]:
    """The lines along which E + A N^-alpha + B D^-beta is least at k N D = C, one k for all.

    Equation 4: N = G (C / k)^(beta / (alpha + beta)) with
    G = (alpha A / (beta B))^(1 / (alpha + beta)).
    """
    c = law.constants(theta)
    both = c["alpha"] + c["beta"]
    ratio = np.log(c["alpha"]) + np.log(c["A"]) - np.log(c["beta"]) - np.log(c["B"])
    slope = c["beta"] / both
    return np.stack([ratio / both - slope * np.log(k), slope], axis=1)


def search(
    law: Law,
    theta: Theta,
    cost: TokenCost,
    sizes: tuple[float, float],
    flops: Float[np.ndarray, "c"],
) -> Float[np.ndarray, "b c"]:
    """N of the law's least loss for each theta and budget, D = C / (k(N) N).

    A grid of sizes finds where the loss is least, as k may make more than one minimum; the steps
    around the lowest few are halved to where the loss stops falling, and the least of those is it.
    """
    c = {name: value[:, None] for name, value in law.constants(theta).items()}
    log_a, log_b, log_c = np.log(c["A"]), np.log(c["B"]), np.log(flops)
    low, high = np.log(sizes[0]) - NEAR, np.log(sizes[1]) + NEAR
    grid = np.concatenate(
        [
            np.arange(low - FAR, low, COARSE),
            np.linspace(low, high, int(np.ceil((high - low) / FINE)) + 1),
            np.arange(high + COARSE, high + FAR, COARSE),
        ]
    )

    def above_floor(log_n, log_k, budget):
        of_n = np.exp(log_a - c["alpha"] * log_n)
        return of_n + np.exp(log_b - c["beta"] * (budget - log_k - log_n))

    log_k = cost.log_k(grid)[0]
    nearest = np.empty((TRIED, len(theta), len(flops)), int)
    for i, budget in enumerate(log_c):  # one at a time: a draw times a size fits the memory
        curves = above_floor(grid, log_k, budget)
        padded = np.pad(curves, ((0, 0), (1, 1)), constant_values=np.inf)
        is_minimum = (curves < padded[:, :-2]) & (curves <= padded[:, 2:])
        lowest = np.argpartition(np.where(is_minimum, curves, np.inf), TRIED - 1, axis=1)
        nearest[:, :, i] = lowest[:, :TRIED].T
    left, right = grid[np.maximum(nearest - 1, 0)], grid[np.minimum(nearest + 1, len(grid) - 1)]
    # The loss falls with log N as long as alpha A N^-alpha is above beta B D^-beta dlog(C/D)/dlogN.
    ratio = np.log(c["beta"]) + log_b - np.log(c["alpha"]) - log_a
    for _ in range(HALVINGS):
        middle = (left + right) / 2
        log_k, growth = cost.log_k(middle)
        log_d = log_c - log_k - middle
        falling = np.log(np.maximum(growth, 1e-300)) + ratio < c["beta"] * log_d - (
            c["alpha"] * middle
        )
        left, right = np.where(falling, middle, left), np.where(falling, right, middle)
    middle = (left + right) / 2
    reached = above_floor(middle, cost.log_k(middle)[0], log_c)
    return np.exp(np.take_along_axis(middle, np.argmin(reached, axis=0)[None], axis=0)[0])


def of_law(law: Law, theta: Float[np.ndarray, "p"], draws: Theta, points: Points) -> Frontier:
    """Approach 3's frontier of a fitted law."""
    cost, ends, none = TokenCost(points), span(points), np.zeros(0)
    if cost.constant:
        line, lines = closed_form(law, theta[None], cost.k)[0], closed_form(law, draws, cost.k)
        return Frontier(3, line, lines, cost, ends, none, none)
    sizes = float(points.parameters.min()), float(points.parameters.max())
    flops = budgets(ends)
    optima = search(law, np.vstack([theta[None], draws]), cost, sizes, flops)
    lines = power_law(flops, optima, np.ones(optima.shape))
    return Curve(3, lines[0], lines[1:], cost, ends, none, none, law, theta, draws, sizes)


def losses(
    law: Law,
    theta: Theta,
    parameters: Float[np.ndarray, "b c"],
    tokens: Float[np.ndarray, "b c"],
) -> Float[np.ndarray, "b c"]:
    """The law's loss, for each theta at sizes and tokens of its own."""
    c = {name: value[:, None] for name, value in law.constants(theta).items()}
    a = np.exp(np.log(c["A"]) - c["alpha"] * np.log(parameters))
    return c["E"] + a + np.exp(np.log(c["B"]) - c["beta"] * np.log(tokens))

"""What a parameter and a token cost together, by size: k(N) of C = k(N) N D.

It is 6 for all where compute is counted as 6 N D (Kaplan et al., arXiv 2001.08361, section 2.1).
With attention and heads counted it falls with size, by a factor of two over the micro ladder; an
optimum that takes one k for all sizes is then off, as the cheaper size is not known to be so.

Between the sizes of the runs log k is a cubic spline of log N. Beyond them a parameter more or less
is taken to cost what it costs at the last size: C / D is a straight line in N from there.
"""

import numpy as np
from jaxtyping import Float
from scipy.interpolate import CubicSpline

from unijax.scaling.points import Points, clusters

ONE_SIZE = 0.4  # of log N: sizes within it are one knot, so that the slope of k is not their noise
ONE_VALUE = 0.05  # of log k: if it differs by less between sizes, one value serves all


class TokenCost:
    """k(N), and how it grows.

    Attributes:
      k: the median over runs.
      spread: the largest over the smallest value of a run.
      constant: whether one value, the median, is taken for all sizes.
    """

    def __init__(self, points: Points):
        log_n = np.log(points.parameters)
        log_k = np.log(points.compute / (points.parameters * points.tokens))
        self.k, self.spread = float(np.exp(np.median(log_k))), float(np.exp(np.ptp(log_k)))
        knots = clusters(log_n, ONE_SIZE)
        runs = np.bincount(knots)
        x, y = np.bincount(knots, log_n) / runs, np.bincount(knots, log_k) / runs
        self.constant = bool(len(x) < 2 or np.ptp(y) < ONE_VALUE)
        self._ends = x[0], x[-1]
        self._spline = None if self.constant else CubicSpline(x, y)

    def log_k(
        self, log_n: Float[np.ndarray, "*shape"]
    ) -> tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]]:
        """log k, and by how many per cent C / D grows with one per cent of N: 1 + dlog k/dlog N."""
        if self.constant:
            return np.full_like(log_n, np.log(self.k)), np.ones_like(log_n)
        inside = np.clip(log_n, *self._ends)
        y, growth = self._spline(inside), 1 + self._spline(inside, 1)
        beyond = log_n - inside
        # A line that would cost nothing somewhere gives way to one value of k.
        free = (growth <= 0) | ((beyond < 0) & (growth > 1))
        growth = np.where((beyond != 0) & free, 1.0, growth)
        parameters = np.exp(beyond)  # over those of the last size
        compute = (1 - growth) + growth * parameters
        return y + np.log(compute) - beyond, growth * parameters / compute

    def tokens(
        self,
        flops: Float[np.ndarray, "*#shape"] | float,
        parameters: Float[np.ndarray, "*#shape"],
    ) -> Float[np.ndarray, "..."]:
        """D = C / (k(N) N)."""
        return flops / (np.exp(self.log_k(np.log(parameters))[0]) * parameters)

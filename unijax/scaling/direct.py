"""The search as it was published, to check ours: L-BFGS from many starts, in all five constants.

Hoffmann et al. (arXiv 2203.15556, appendix D.3) write the prediction as the log-sum-exp of
a - alpha log N, b - beta log D and e, and start L-BFGS from a grid. This shares nothing with
`fit.py` but the definition of the objective.
"""

import itertools

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

from unijax.scaling.points import Points

STARTS = 32
# The published grid; a search takes a random part of its 4,500 starts.
GRID = {
    "a": (0.0, 5.0, 10.0, 15.0, 20.0, 25.0),
    "b": (0.0, 5.0, 10.0, 15.0, 20.0, 25.0),
    "e": (-1.0, -0.5, 0.0, 0.5, 1.0),
    "alpha": (0.0, 0.5, 1.0, 1.5, 2.0),
    "beta": (0.0, 0.5, 1.0, 1.5, 2.0),
}


def objective(
    theta: Float[np.ndarray, "5"], points: Points, delta: float
) -> tuple[float, Float[np.ndarray, "5"]]:
    """Summed Huber's loss of log residuals at (a, b, e, alpha, beta), and its gradient."""
    a, b, e, alpha, beta = theta
    x, y = np.log(points.parameters), np.log(points.tokens)
    terms = np.stack([a - alpha * x, b - beta * y, np.full_like(x, e)])
    largest = terms.max(axis=0)  # scipy's logsumexp takes ten times as long for a few runs
    predicted = largest + np.log(np.exp(terms - largest).sum(axis=0))
    r = predicted - np.log(points.loss)
    size = np.abs(r)
    value = np.sum(np.where(size <= delta, r * r / 2, delta * (size - delta / 2)))
    slope = np.clip(r, -delta, delta)
    share_a, share_b, share_e = np.exp(terms - predicted)
    gradient = [slope @ share_a, slope @ share_b, slope @ share_e]
    gradient += [-slope @ (share_a * x), -slope @ (share_b * y)]
    return float(value), np.array(gradient)


def fit_directly(
    points: Points, starts: int = STARTS, delta: float = 1e-3, seed: int = 0
) -> tuple[dict[str, float], float]:
    """The best constants over random starts of the published grid, and the objective there."""
    everywhere = np.array(list(itertools.product(*GRID.values())))
    rng = np.random.default_rng(seed)
    best = None
    for start in rng.permutation(everywhere)[:starts]:
        # The objective is some 1e-3 in all: the default tolerance would stop at once.
        found = minimize(
            lambda t: tuple(1e3 * v for v in objective(t, points, delta)),
            start,
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 5000, "maxfun": 10_000, "ftol": 1e-15, "gtol": 1e-10},
        )
        if best is None or found.fun < best.fun:
            best = found
    a, b, e, alpha, beta = map(float, best.x)
    constants = {"E": np.exp(e), "A": np.exp(a), "B": np.exp(b), "alpha": alpha, "beta": beta}
    return {k: float(v) for k, v in constants.items()}, float(best.fun) / 1e3

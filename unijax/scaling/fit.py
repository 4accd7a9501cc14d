"""Fits a law to runs: variable projection over the exponents, then all coordinates together.

For fixed exponents the prediction is linear in E, A and B, so the search needs no starts for them:
each point of a grid over the exponents gets its best E, A, B (variable projection, Golub and
Pereyra 1973; for these laws Czech et al., arXiv 2603.22339). The projected surface's local minima
then start a descent in all coordinates, on the exact objective.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from unijax.core.errors import UserError
from unijax.scaling.laws import Law, Theta
from unijax.scaling.objective import Objective
from unijax.scaling.solver import minimise

STARTS = 8  # of the projected grid's local minima, the best


@dataclasses.dataclass(frozen=True)
class Fit:
    """A law fitted to runs.

    Attributes:
      law: with the coordinates' middle.
      objective: what was minimised.
      theta: [p], the best minimum.
      value: of the objective there, summed over runs.
      minima: [m, p], all local minima found that differ, best first; `theta` is the first.
      values: [m], of the objective at them.
      runs: how many were fitted.
    """

    law: Any
    objective: Objective
    theta: Float[np.ndarray, "p"]
    value: float
    minima: Theta
    values: Float[np.ndarray, "m"]
    runs: int

    def predict(self, points: Any) -> Float[np.ndarray, "n"]:
        """Losses of runs by the best minimum."""
        return self.law.predict(self.theta[None], points)[0][0]

    def constants(self) -> dict[str, float]:
        """As published."""
        return {k: float(v[0]) for k, v in self.law.constants(self.theta[None]).items()}

    def at_bounds(self) -> tuple[str, ...]:
        """Names of free coordinates that ended at a bound of the search."""
        law, near = self.law, 1e-6
        low, high = self.theta - law.lower < near, law.upper - self.theta < near
        return tuple(n for n, f, x in zip(law.names, law.free, low | high) if f and x)


def project(
    law: Law, points: Any, objective: Objective, grid: Float[np.ndarray, "g s"]
) -> tuple[Theta, Float[np.ndarray, "g"]]:
    """For each value of the searched coordinates the best of the rest, and the objective there."""
    solution = minimise(law, points, objective, law.start(grid, points), held=law.searched)
    return solution.theta, solution.value


def fit(law: Law, points: Any, objective: Objective) -> Fit:
    """The best of the local minima.

    Raises:
      UserError: with no more runs than the law has coordinates to fit.
    """
    free = sum(law.free)
    if len(points.loss) <= free:
        raise UserError(
            "fit",
            f"{len(points.loss)} runs",
            f"more than the {free} constants of the law",
            "Add runs, or fit a law with fewer constants.",
        )
    grid = law.grid()
    starts, values = project(law, points, objective, grid)
    chosen = _local_minima(grid, values)[:STARTS]
    solution = minimise(law, points, objective, starts[chosen])
    order = np.argsort(solution.value)
    minima, kept = solution.theta[order], solution.value[order]
    new = [0]
    for i in range(1, len(minima)):
        if np.abs(minima[new] - minima[i]).max(axis=1).min() > 1e-3:
            new.append(i)
    return Fit(law, objective, minima[0], float(kept[0]), minima[new], kept[new], len(points.loss))


def _local_minima(grid: Float[np.ndarray, "g s"], values: Float[np.ndarray, "g"]) -> np.ndarray:
    """Indices of the grid's points that no neighbour is below, best first."""
    axes = [np.unique(grid[:, i]) for i in range(grid.shape[1])]
    box = np.where(np.isfinite(values), values, np.inf).reshape([len(a) for a in axes])
    lowest = np.ones(box.shape, bool)
    padded = np.pad(box, 1, constant_values=np.inf)
    for shift in np.ndindex(*(3,) * box.ndim):
        window = tuple(slice(s, s + n) for s, n in zip(shift, box.shape))
        lowest &= box <= padded[window]
    found = np.flatnonzero(lowest.ravel())
    return found[np.argsort(values[found])]

"""How far to trust a law: hide the largest runs, fit the rest, predict what was hidden."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from unijax.core.errors import UserError
from unijax.scaling.bootstrap import bootstrap, interval
from unijax.scaling.fit import Fit, fit
from unijax.scaling.laws import Chinchilla
from unijax.scaling.objective import Objective
from unijax.scaling.points import Points


@dataclasses.dataclass(frozen=True)
class Extrapolation:
    """Predictions of hidden runs.

    Attributes:
      fitted: on the runs that were not hidden.
      held: indices of the hidden runs, by rising compute.
      predicted, observed: their losses.
      interval: [2, m], of a run's loss: the law's uncertainty and the scatter of single runs.
    """

    fitted: Fit
    held: Int[np.ndarray, "m"]
    predicted: Float[np.ndarray, "m"]
    observed: Float[np.ndarray, "m"]
    interval: Float[np.ndarray, "2 m"]

    @property
    def relative_error(self) -> Float[np.ndarray, "m"]:
        """(predicted - observed) / observed."""
        return self.predicted / self.observed - 1

    @property
    def inside(self) -> Bool[np.ndarray, "m"]:
        """Which observations the interval holds."""
        return (self.interval[0] <= self.observed) & (self.observed <= self.interval[1])


def largest(points: Points, settings: int) -> Int[np.ndarray, "m"]:
    """Runs of the `settings` largest computes, all seeds of each.

    Raises:
      UserError: where the runs have no more settings than that.
    """
    setting = np.stack([points.compute, points.parameters, points.tokens], axis=1)
    order = np.unique(setting, axis=0)  # sorted by compute first
    if settings >= len(order):
        raise UserError(
            "extrapolation", f"{settings} settings to hide of {len(order)}",
            "some to be left, for the fit", "Hide fewer.",
        )  # fmt: skip
    chosen = order[len(order) - settings :]
    held = np.flatnonzero((setting[:, None] == chosen[None]).all(axis=2).any(axis=1))
    return held[np.argsort(points.compute[held], kind="stable")]


def predict_with_interval(
    fitted: Fit, draws: Float[np.ndarray, "draws p"], seen: Points, new: Points, level: float,
    seed: int,
) -> Float[np.ndarray, "2 m"]:  # fmt: skip
    """Of single runs: every draw of the law, each with a residual of the fitted runs on it."""
    residuals = np.log(seen.loss) - np.log(fitted.predict(seen))
    scatter = np.random.default_rng(seed).choice(residuals, size=(len(draws), len(new)))
    constants = sum(fitted.law.free)
    # Residuals of a fit are smaller than the errors by the share of fitted constants.
    scatter = scatter * np.sqrt(len(seen) / max(len(seen) - constants, 1))
    predictions = np.log(fitted.law.predict(draws, new)[0]) + scatter
    return np.exp(interval(predictions, level))


def extrapolate(
    points: Points,
    settings: int,
    objective: Objective,
    draws: int,
    level: float,
    seed: int,
    tied: bool = False,
) -> Extrapolation:
    """Hides the `settings` largest settings of (compute, N, D) and predicts them.

    Raises:
      UserError: as `largest`, and where too few runs remain to fit.
    """
    held = largest(points, settings)
    seen = points.take(np.setdiff1d(np.arange(len(points)), held))
    law, sizes = Chinchilla.of(seen, tied), len(np.unique(seen.parameters))
    if sizes < 3 or len(seen) <= sum(law.free):
        raise UserError(
            "extrapolation",
            f"{len(seen)} runs of {sizes} sizes when the {settings} largest settings are hidden",
            f"more than {sum(law.free)} runs, of at least 3 sizes, to fit",
            "Hide fewer, or add runs.",
        )
    fitted = fit(law, seen, objective)
    new = points.take(held)
    drawn = bootstrap(fitted, seen, draws, seed)
    ends = predict_with_interval(fitted, drawn, seen, new, level, seed)
    return Extrapolation(fitted, held, fitted.predict(new), new.loss, ends)

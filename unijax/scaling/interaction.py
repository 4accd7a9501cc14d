"""The law of two modalities, from a table of runs on one or on both of them (`bimodal`)."""

import dataclasses

import numpy as np
from jaxtyping import Float

from unijax.scaling import patterns, validate
from unijax.scaling.bimodal import Bimodal, MixedPoints
from unijax.scaling.bootstrap import interval, resample
from unijax.scaling.diagnostics import limits_of_fit
from unijax.scaling.doubt import Doubt
from unijax.scaling.fit import Fit, fit
from unijax.scaling.laws import Theta
from unijax.scaling.solver import minimise
from unijax.scaling.study import Analysis, FitConfig
from unijax.scaling.table import Runs


@dataclasses.dataclass(frozen=True)
class Interaction:
    """What two modalities do to each other.

    Attributes:
      modalities: their names.
      points: the mixed runs.
      ids: of these; failed: of those left out.
      fitted: the law, whose unimodal parts are held.
      draws: [draws, p], of the bootstrap over unimodal and over mixed runs.
      doubts, limits: as of an `Analysis`.
    """

    modalities: tuple[str, str]
    points: MixedPoints
    ids: list[str]
    failed: list[str]
    fitted: Fit
    draws: Theta
    doubts: list[Doubt]
    limits: list[str]

    def constants(self, level: float) -> dict[str, tuple[float, float, float]]:
        """Name -> value, lower, upper."""
        drawn = self.fitted.law.constants(self.draws)
        ends = {k: interval(v, level) for k, v in drawn.items()}
        values = self.fitted.constants().items()
        return {k: (v, float(ends[k][0]), float(ends[k][1])) for k, v in values}

    def gain(self, level: float) -> Float[np.ndarray, "4 n"]:
        """Nats per token that each mixed run lost against two runs of one modality each.

        Below zero: together is better. Measured, by the law, and the law's lower and upper end.
        """
        law, p = self.fitted.law, self.points
        apart = law.unimodal(self.fitted.theta[None], p)[0]
        drawn = law.predict(self.draws, p)[0] - law.unimodal(self.draws, p)
        return np.vstack([p.loss - apart, self.fitted.predict(p) - apart, interval(drawn, level)])


@dataclasses.dataclass(frozen=True)
class Mixture:
    """The runs of one system on both modalities, with their ids, and the ids of those left out."""

    points: MixedPoints
    ids: list[str]
    failed: list[str]


def alone(runs: Runs, modality: str, other: str) -> Runs:
    """The runs that saw nothing of the other modality."""
    return runs.where((runs[f"tokens_{other}"] == 0) & (runs[f"tokens_{modality}"] > 0))


def mixture(runs: Runs, config: FitConfig) -> Mixture:
    """The runs that saw both.

    Raises:
      UserError: for whatever `validate` refuses.
    """
    column = validate.column_of_parameters(runs, config.parameters)
    runs, failed = validate.mixtures(
        runs, config.bimodal, column, config.drop_failed, config.best_learning_rate
    )
    first, second = config.bimodal
    tokens = (runs[f"tokens_{name}"] for name in config.bimodal)
    mean = (runs.loss(first) + runs.loss(second)) / 2
    ids = [str(i) for i in runs["run_id"]]
    return Mixture(MixedPoints(runs[column], *tokens, mean), ids, failed)


def interaction(
    chosen: Mixture, first: Analysis, second: Analysis, config: FitConfig
) -> Interaction:
    """Fits what remains of the mixed runs' mean loss beside both unimodal laws.

    Args:
      first, second: of the runs of one modality each, with as many bootstrap draws.
    """
    points = chosen.points
    law = Bimodal.of(first.fitted, second.fitted, points)
    fitted = fit(law, points, config.objective)
    draws = _bootstrap(fitted, points, first.draws, second.draws, config.seed)
    residuals = np.log(points.loss) - np.log(fitted.predict(points))
    scale = patterns.scatter(residuals, sum(law.free))
    return Interaction(
        modalities=(first.modality, second.modality),
        points=points,
        ids=chosen.ids,
        failed=chosen.failed,
        fitted=fitted,
        draws=draws,
        doubts=patterns.large(residuals, scale) + patterns.stray(residuals, chosen.ids, scale),
        limits=limits_of_fit(fitted, points, draws),
    )


def _bootstrap(
    fitted: Fit,
    points: MixedPoints,
    first: Float[np.ndarray, "draws q"],
    second: Float[np.ndarray, "draws r"],
    seed: int,
) -> Float[np.ndarray, "draws p"]:
    """Each draw holds one of both unimodal laws and resamples the mixed runs."""
    rng = np.random.default_rng(seed)
    free = sum(fitted.law.free)
    counts = resample(rng, len(points.loss), len(first), lambda here: np.sum(here) > free)
    ours = np.broadcast_to(fitted.theta[-free:], (len(first), free))
    starts = np.concatenate([first, second, ours], axis=1)
    return minimise(fitted.law, points, fitted.objective, starts, counts.astype(float)).theta

"""A whole analysis of one loss of one system: every approach, its intervals and its doubts."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from unijax.core.errors import UserError
from unijax.scaling import diagnostics, envelope, frontier, isoflop, repeated, validate
from unijax.scaling.bootstrap import bootstrap, interval
from unijax.scaling.direct import fit_directly
from unijax.scaling.doubt import Doubt
from unijax.scaling.doubts import doubts
from unijax.scaling.extrapolation import Extrapolation, extrapolate, largest
from unijax.scaling.fit import Fit, fit
from unijax.scaling.frontier import Frontier
from unijax.scaling.isoflop import Valley
from unijax.scaling.laws import Chinchilla, Theta
from unijax.scaling.objective import Objective
from unijax.scaling.points import Points
from unijax.scaling.rates import at_the_end
from unijax.scaling.table import Runs
from unijax.scaling.unseen import unseen

ENVELOPE_DRAWS = 200  # at most, of approach 1: each is a walk over all budgets
HIDDEN_DRAWS = 300  # at most, of the law that predicts hidden runs
FEWEST_DRAWS = 20  # of a bootstrap: with fewer, an interval is as wide as chance has it


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """Every choice of a fit; the report states them all.

    Attributes:
      losses: modalities; none for all of the table.
      parameters: the column that is N; none for non_embedding_parameters, or parameters where
        there is no such column.
      delta, residual: of the objective.
      tied: one exponent for N and D.
      repeated: fit the half-lives of repeated data too.
      draws: of the bootstrap.
      level: of confidence.
      seed: of the bootstrap.
      hold_out: how many of the largest settings are hidden and predicted; 0 for none.
      budgets: FLOPs to name the optimum of; none for ten and a hundred times the largest run.
      drop_failed: leave out runs that diverged or are not done.
      best_learning_rate: keep the best rate of each setting.
      bimodal: two modalities whose interaction is fitted: then the laws are of the runs that saw
        one of them alone.
      reference: the system that the others' parity FLOP ratios are against.
    """

    losses: tuple[str, ...] = ()
    parameters: str = ""
    delta: float = 1e-3
    residual: str = "log"
    tied: bool = False
    repeated: bool = False
    draws: int = 1000
    level: float = 0.95
    seed: int = 0
    hold_out: int = 2
    budgets: tuple[float, ...] = ()
    drop_failed: bool = False
    best_learning_rate: bool = False
    bimodal: tuple[str, ...] = ()
    reference: str = ""

    def __post_init__(self):
        for name, found, right, expected in (
            ("--draws", self.draws, self.draws >= FEWEST_DRAWS, f"at least {FEWEST_DRAWS}"),
            ("--level", self.level, 0 < self.level < 1, "a share between 0 and 1"),
            ("--seed", self.seed, self.seed >= 0, "0 or more"),
            ("--hold-out", self.hold_out, self.hold_out >= 0, "0 or more"),
            ("--budget", list(self.budgets), all(0 < c < np.inf for c in self.budgets),
             "FLOPs above 0"),
        ):  # fmt: skip
            if not right:
                raise UserError(name, f"{found}", expected, "Correct it.")
        if self.bimodal and len(set(self.bimodal)) != 2:
            raise UserError(
                "--bimodal", f"{list(self.bimodal)}", "two modalities", "Name two losses."
            )

    @property
    def objective(self) -> Objective:
        return Objective(self.delta, self.residual)


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What was found of one loss of one system.

    Attributes:
      column: of the table, that is N.
      ids: of the fitted runs, in the order of `points`; failed: of those left out.
      draws: of the bootstrap.
      direct: the constants and the objective of the published search, as a check; None if tied.
      frontiers: by approach; approaches that the runs do not allow are missing.
      valleys: of approach 2, also those that it could not use.
      extrapolation: None where nothing was hidden or too little remained.
      repetition: the fit of half-lives, with its draws; None unless asked for.
      doubts: what the runs say against the law, and against each other.
      limits: what these runs cannot determine, whatever their losses are.
      unseen: mistakes that the table's columns cannot show, and which column would tell.
    """

    system: str
    modality: str
    points: Points
    column: str
    ids: list[str]
    failed: list[str]
    fitted: Fit
    draws: Float[np.ndarray, "draws p"]
    direct: tuple[dict[str, float], float] | None
    frontiers: dict[int, Frontier]
    valleys: list[Valley]
    extrapolation: Extrapolation | None
    repetition: tuple[Fit, Float[np.ndarray, "draws q"]] | None
    doubts: list[Doubt]
    limits: list[str]
    unseen: list[str]

    def constants(self, level: float) -> dict[str, tuple[float, float, float]]:
        """Name -> value, lower, upper."""
        found = _with_ends(self.fitted, self.draws, level)
        if self.repetition is not None:
            both = _with_ends(*self.repetition, level)
            found |= {k: both[k] for k in ("R_D", "R_N")}
        return found


def _with_ends(fitted: Fit, draws: Theta, level: float) -> dict[str, tuple[float, float, float]]:
    drawn = fitted.law.constants(draws)
    ends = {k: interval(v, level) for k, v in drawn.items()}
    return {k: (v, float(ends[k][0]), float(ends[k][1])) for k, v in fitted.constants().items()}


def systems(runs: Runs) -> list[str]:
    """Names of the systems of a table; one without a name where there is no such column.

    Raises:
      UserError: for a row without a name among rows with one.
    """
    if "system" not in runs:
        return [""]
    missing = [i for i, s in zip(runs["run_id"], runs["system"]) if not s]
    if missing:
        raise UserError(
            "column system", f"no name in {len(missing)} rows, {missing[0]} the first",
            "the name of a system in every row, or no such column", "Fill it in.",
        )  # fmt: skip
    return sorted({str(s) for s in runs["system"]})


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The runs of one system that are fitted.

    Attributes:
      runs: their rows, in the order of `points`.
      failed: ids of those left out.
      doubts: of what was not kept: rates.
      column: the one that is N.
    """

    points: Points
    runs: Runs
    failed: list[str]
    doubts: list[Doubt]
    column: str

    @property
    def ids(self) -> list[str]:
        return [str(i) for i in self.runs["run_id"]]


def choose(runs: Runs, system: str, modality: str, config: FitConfig) -> Chosen:
    """What of a table is fitted.

    Raises:
      UserError: for whatever `validate` refuses, too few single epochs for `repeated`, and no
        settings left when `hold_out` are hidden.
    """
    if system:
        runs = runs.where(runs["system"] == system)
    column = validate.column_of_parameters(runs, config.parameters)
    points, rows, failed = validate.points(
        runs, modality, column, config.drop_failed, config.best_learning_rate
    )
    fitted = points
    if config.repeated:
        once = repeated.single_epoch(points)
        if once.sum() < validate.FEWEST:
            raise UserError(
                "repeated data", f"{once.sum()} runs that see their tokens once",
                f"at least {validate.FEWEST}, for the constants that repetition does not touch",
                "Add runs of a single epoch.",
            )  # fmt: skip
        fitted = points.take(np.flatnonzero(once))
    if config.hold_out:
        largest(fitted, config.hold_out)  # refuses to hide them all
    tried = runs.where(np.isfinite(runs.loss(modality)))
    rates = at_the_end(tried, tried.loss(modality), column)
    return Chosen(points, rows, failed, rates, column)


def analyse(
    chosen: Chosen,
    system: str,
    modality: str,
    config: FitConfig,
    progress: Callable[[int], None] = lambda done: None,
) -> Analysis:
    """Fits everything that the runs of a system allow."""
    points, runs, everything = chosen.points, chosen.runs, chosen.points
    if config.repeated:
        once = repeated.single_epoch(points)
        points, runs = points.take(np.flatnonzero(once)), runs.where(once)
    law = Chinchilla.of(points, config.tied)
    fitted = fit(law, points, config.objective)
    draws = bootstrap(fitted, points, config.draws, config.seed, progress=progress)
    said = [*chosen.doubts, *validate.doubts_of_compute(points)]
    said += diagnostics.doubts_of_epochs(points, runs)
    said += doubts(fitted, points, runs, budgets(points, config))
    limits = diagnostics.limits_of_runs(points) + diagnostics.limits_of_fit(fitted, points, draws)
    frontiers = {3: frontier.of_law(law, fitted.theta, draws, points)}
    limits += diagnostics.limits_of_frontier(frontiers[3], points)
    valleys = isoflop.valleys(points)
    limits += diagnostics.limits_of_valleys(valleys)
    for approach, attempt in (
        (1, lambda: envelope.fit_envelope(points, envelope_draws(config.draws), config.seed)),
        (2, lambda: isoflop.fit_isoflop(points, config.draws, config.seed)[0]),
    ):
        try:
            frontiers[approach] = attempt()
        except UserError as e:
            limits.append(f"not done: {e}")
    if 1 in frontiers:
        limits += diagnostics.limits_of_approach_1(frontiers[1], envelope_draws(config.draws))
    if 2 in frontiers:
        limits += diagnostics.limits_of_approach_2(fitted, points)
    direct = None
    if not config.tied and config.residual == "log":
        direct = fit_directly(points, delta=config.delta, seed=config.seed)
        if direct[1] < fitted.value * (1 - 1e-6):
            limits.append(
                f"the published search found a lower objective: {direct[1]:.6g} where this one "
                f"has {fitted.value:.6g}; its constants: {direct[0]}"
            )
    return Analysis(
        system=system,
        modality=modality,
        points=points,
        column=chosen.column,
        ids=[str(i) for i in runs["run_id"]],
        failed=chosen.failed,
        fitted=fitted,
        draws=draws,
        direct=direct,
        frontiers=dict(sorted(frontiers.items())),
        valleys=valleys,
        extrapolation=_extrapolate(points, config, limits),
        repetition=_repetition(everything, fitted, draws, config, limits),
        doubts=said,
        limits=limits,
        unseen=unseen(points, runs),
    )


def _extrapolate(points: Points, config: FitConfig, limits: list[str]) -> Extrapolation | None:
    if not config.hold_out:
        return None
    try:
        return extrapolate(
            points, config.hold_out, config.objective, min(config.draws, HIDDEN_DRAWS),
            config.level, config.seed, config.tied,
        )  # fmt: skip
    except UserError as e:
        limits.append(f"not done: {e}")
        return None


def _repetition(
    points: Points,
    base: Fit,
    draws: Float[np.ndarray, "draws p"],
    config: FitConfig,
    limits: list[str],
) -> tuple[Fit, Float[np.ndarray, "draws q"]] | None:
    if not config.repeated:
        return None
    law = repeated.Repeated(base.law, base.theta)
    fitted = fit(law, points, config.objective)
    drawn = repeated.bootstrap_half_lives(fitted, points, draws, config.seed)
    found = diagnostics.limits_of_fit(fitted, points, drawn)
    found += diagnostics.limits_of_repetition(fitted, points)
    limits += [f"repeated data: {w}" for w in found]
    return fitted, drawn


def law_at(
    analysis: Analysis, n: Float[np.ndarray, "..."], d: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """The fitted loss at N parameters and D tokens, each seen once."""
    c = analysis.fitted.constants()
    return c["E"] + c["A"] * n ** -c["alpha"] + c["B"] * d ** -c["beta"]


def optima(
    analysis: Analysis, budgets: Float[np.ndarray, "c"], level: float
) -> dict[str, Float[np.ndarray, "3 c"]]:
    """Compute-optimal parameters, tokens and loss by approach 3: value, lower, upper."""
    best = analysis.frontiers[3]
    law, thetas = analysis.fitted.law, (analysis.fitted.theta[None], analysis.draws)
    sizes = best.optimal_parameters(budgets)[None], best.drawn_parameters(budgets)
    tokens = [best.cost.tokens(budgets, n) for n in sizes]
    losses = [frontier.losses(law, *x) for x in zip(thetas, sizes, tokens)]
    found = {"parameters": sizes, "tokens": tokens, "loss": losses}
    return {k: np.vstack([one, interval(drawn, level)]) for k, (one, drawn) in found.items()}


def envelope_draws(draws: int) -> int:
    """Of approach 1, where the others take so many."""
    return min(draws, ENVELOPE_DRAWS)


def has_band(analysis: Analysis, approach: int) -> bool:
    """Whether half of the draws or more have this frontier: a band of few misleads."""
    asked = len(analysis.draws) if approach != 1 else envelope_draws(len(analysis.draws))
    return 2 * len(analysis.frontiers[approach].draws) >= asked


def budgets(points: Points, config: FitConfig) -> Float[np.ndarray, "c"]:
    """The budgets asked for, or ten and a hundred times the largest run's compute."""
    if config.budgets:
        return np.array(config.budgets, float)
    return points.compute.max() * np.array([10.0, 100.0])

"""Intervals hold the truth as often as they say; draws are honest refits."""

import pathlib

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize

from tests.long import long
from tests.scaling.synthetic import BUDGETS, TRUTH, isoflop
from unijax.scaling import table, validate
from unijax.scaling.bootstrap import bootstrap, resample
from unijax.scaling.coverage import coverage
from unijax.scaling.fit import fit
from unijax.scaling.laws import Chinchilla
from unijax.scaling.objective import Objective

STUDY = pathlib.Path(__file__).parents[2] / "docs" / "study" / "ladder.csv"


def test_a_draw_is_the_fit_to_the_drawn_runs():
    points = isoflop(BUDGETS, noise=0.01)
    fitted = fit(Chinchilla.of(points), points, Objective())
    rng = np.random.default_rng(1)
    counts = resample(rng, len(points), 5, lambda here: True)
    draws = bootstrap(fitted, points, 5, seed=0, weights=counts.astype(float))
    for row, draw in zip(counts, draws):
        drawn = points.take(np.repeat(np.arange(len(points)), row))
        again = fit(fitted.law, drawn, Objective())
        value = Objective().value(
            np.log(fitted.law.predict(draw[None], drawn)[0] / drawn.loss), np.ones(len(drawn))
        )[0]
        assert value == pytest.approx(again.value, rel=1e-5)


def test_draws_stopped_short_where_constants_nearly_do_the_same():
    # The micro study's image codes: E, and A N^-alpha with a small alpha, can hardly be told apart.
    runs = table.read(STUDY)
    points, _, _ = validate.points(runs, "code", "non_embedding_parameters", False, False)
    objective = Objective()
    law = Chinchilla.of(points)
    fitted = fit(law, points, objective)
    counts = resample(np.random.default_rng(0), len(points), 60, lambda here: here.sum() > 5)
    draws = bootstrap(fitted, points, 60, 0, weights=counts.astype(float))
    level = np.log(np.median(points.loss))
    elsewhere = np.array([level - 8, level - 1, level - 1, 0.05, 0.3])
    bounds = list(zip(law.lower, law.upper))
    for weights, draw in zip(counts[::10].astype(float), draws[::10]):

        def value(theta, weights=weights):
            predicted, jacobian = law.predict(theta[None], points)
            residuals = objective.residuals(predicted, points.loss)
            slope = weights * np.clip(residuals, -objective.delta, objective.delta)
            gradient = (slope / predicted) @ jacobian[0]
            return 1e4 * objective.value(residuals, weights[None])[0], 1e4 * gradient[0]

        options = {"maxiter": 3000, "ftol": 1e-15, "gtol": 1e-12}
        for start in (draw, elsewhere):
            peer = minimize(
                value, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options
            )
            assert value(draw)[0] <= peer.fun * 1.005


def test_draws_are_the_seeds():
    points = isoflop(BUDGETS, noise=0.01)
    fitted = fit(Chinchilla.of(points), points, Objective())
    one, same, other = (bootstrap(fitted, points, 20, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_refused_draws_are_drawn_again():
    counts = resample(np.random.default_rng(0), 4, 50, lambda here: np.sum(here) == 4)
    assert (counts == 1).all()


@long
def test_intervals_hold_the_truth_at_the_stated_rate():
    # `bench/scaling_coverage.py` does thousands of studies; here few enough for seconds.
    studies = 24
    found = coverage(
        lambda seed: isoflop(BUDGETS, sizes=7, noise=0.005, seed=seed),
        TRUTH, studies=studies, draws=60, level=0.9,
    )  # fmt: skip
    # Within what so many draws of a coin of 0.9 allow in 99.9% of cases.
    low, high = stats.binom.ppf([0.0005, 0.9995], studies, 0.9) / studies
    for name, share in found.items():
        assert low <= share <= min(high, 1.0), (name, share)

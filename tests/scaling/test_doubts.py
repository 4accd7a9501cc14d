"""Extrapolation, and what a fit is doubted for."""

import dataclasses

import numpy as np
import pytest

from tests.scaling.synthetic import BUDGETS, TRUTH, as_runs, isoflop, loss
from tests.scaling.test_cost import runs
from tests.scaling.test_frontier import curves
from tests.scaling.test_more_laws import runs_with_epochs
from unijax.core.errors import UserError
from unijax.scaling import diagnostics
from unijax.scaling.bootstrap import bootstrap
from unijax.scaling.envelope import fit_envelope
from unijax.scaling.extrapolation import extrapolate, largest
from unijax.scaling.fit import fit
from unijax.scaling.frontier import of_law
from unijax.scaling.isoflop import valleys
from unijax.scaling.laws import Chinchilla
from unijax.scaling.objective import Objective
from unijax.scaling.points import Points
from unijax.scaling.repeated import Repeated, single_epoch
from unijax.scaling.table import Runs


def of(n, d, noise=0.0):
    off = np.random.default_rng(0).normal(0, noise, len(n))
    return Points(n, d, loss(n, d) * np.exp(off))


def doubts(points: Points) -> str:
    fitted = fit(Chinchilla.of(points), points, Objective())
    draws = bootstrap(fitted, points, 100, 0)
    found = diagnostics.limits_of_runs(points) + diagnostics.limits_of_fit(fitted, points, draws)
    found += diagnostics.limits_of_valleys(valleys(points))
    found += diagnostics.limits_of_frontier(of_law(fitted.law, fitted.theta, draws, points), points)
    return "\n".join(found + diagnostics.limits_of_approach_2(fitted, points))


def test_a_good_study_is_not_doubted():
    assert doubts(isoflop(BUDGETS, sizes=9, width=4.0, noise=0.002)) == ""


def test_runs_at_one_ratio_of_tokens_to_parameters():
    n = np.geomspace(1e7, 1e10, 16)
    assert "alpha and beta cannot be told apart" in doubts(of(n, 20 * n, 0.005))


def test_too_little_range():
    n = np.repeat(np.geomspace(1e8, 3e8, 5), 4)
    said = doubts(of(n, np.tile(np.geomspace(1e9, 5e9, 4), 5), 0.005))
    assert "parameters span a factor of 3.0 only" in said
    assert "tokens span a factor of 5.0 only" in said


def test_few_sizes_and_few_runs():
    n = np.repeat([1e7, 1e8, 1e9], 4)
    said = doubts(of(n, np.tile(np.geomspace(1e8, 1e11, 4), 3), 0.005))
    assert "3 sizes only" in said
    assert "12 runs for 5 constants" in said


def test_one_side_of_the_valley():
    points = isoflop(BUDGETS, sizes=9, width=9.0)
    best = np.repeat(isoflop(BUDGETS, sizes=1, width=1.0).parameters, 9)
    said = doubts(points.take(np.flatnonzero(points.parameters > 1.5 * best)))
    assert "one side of the valley" in said


def test_no_effect_of_data_is_found_at_a_bound_or_ill_conditioned():
    n = np.repeat(np.geomspace(1e7, 1e10, 8), 4)
    d = np.tile(np.geomspace(1e9, 1e11, 4), 8)
    points = Points(n, d, 1.8 + 480 / n**0.35)
    said = doubts(points)
    assert "bound" in said or "ill-conditioned" in said


def test_bias_of_approach_2_is_said():
    lopsided = {"E": 1.8, "A": 60.0, "B": 60000.0, "alpha": 0.22, "beta": 0.52}
    assert "approach 2 is biased here" in doubts(isoflop(BUDGETS, c=lopsided))


def test_hidden_runs_are_predicted_and_inside_their_intervals():
    points = isoflop(BUDGETS, noise=0.003, seed=2)
    found = extrapolate(points, 7, Objective(), 200, 0.95, 0)
    assert found.fitted.runs == 35
    np.testing.assert_allclose(points.compute[found.held], BUDGETS[-1])
    assert np.abs(found.relative_error).max() < 0.02
    assert found.inside.mean() >= 5 / 7
    assert (found.interval[0] < found.predicted).all()
    assert (found.predicted < found.interval[1]).all()


def test_without_noise_predictions_are_exact():
    found = extrapolate(isoflop(BUDGETS), 3, Objective(), 20, 0.95, 0)
    assert np.abs(found.relative_error).max() < 1e-6


def test_a_law_that_does_not_hold_is_caught_by_the_hidden_runs():
    points = isoflop(BUDGETS, noise=0.001)
    broken = points.loss.copy()
    broken[points.compute > 5e20] *= 1.1  # the largest runs went wrong
    found = extrapolate(dataclasses.replace(points, loss=broken), 7, Objective(), 100, 0.95, 0)
    assert not found.inside.any()


def test_largest_hides_all_seeds_of_a_setting():
    points = isoflop(BUDGETS, noise=0.003)
    twice = points.take(np.repeat(np.arange(len(points)), 2))
    held = largest(twice, 2)
    assert len(held) == 4
    assert set(twice.parameters[held]) == set(points.parameters[largest(points, 2)])


@pytest.mark.parametrize("settings", [42, 43, 60])
def test_hiding_all_runs_is_refused(settings):
    # A slice from below zero would have hidden the 18 largest for 60.
    with pytest.raises(UserError, match=f"{settings} settings to hide of 42"):
        largest(isoflop(BUDGETS), settings)
    assert len(largest(isoflop(BUDGETS), 41)) == 41


def test_hiding_more_than_a_fit_can_spare_is_refused():
    n, d = np.repeat([1e7, 1e8, 1e9], 3), np.tile([1e9, 1e10, 1e11], 3)
    with pytest.raises(UserError, match=r"5 runs of 2 sizes .* more than 5 runs, of at least 3"):
        extrapolate(of(n, d), 4, Objective(), 10, 0.95, 0)


def test_too_many_hidden_runs_are_refused():
    with pytest.raises(UserError, match="extrapolation"):
        extrapolate(isoflop(BUDGETS[:1], sizes=8), 6, Objective(), 10, 0.95, 0)


def test_truth_of_the_synthetic_runs():
    points = isoflop(BUDGETS)
    np.testing.assert_allclose(points.loss, loss(points.parameters, points.tokens, TRUTH))


def test_repeated_tokens_are_not_counted_as_new_ones_in_silence():
    points = isoflop(BUDGETS, sizes=9, width=4.0, noise=0.002)
    repeated = dataclasses.replace(points, unique_tokens=np.minimum(points.tokens, 1e10))
    count = int(np.sum(points.tokens > 1.01e10))
    (said,) = diagnostics.doubts_of_epochs(repeated, as_runs(repeated))
    assert said.text.startswith(f"{count} runs saw their tokens up to")
    assert said.causes == ("repeated",)
    fresh = dataclasses.replace(points, unique_tokens=points.tokens)
    assert diagnostics.doubts_of_epochs(fresh, as_runs(fresh)) == []
    assert diagnostics.doubts_of_epochs(points, as_runs(points)) == []
    epochs = Runs(as_runs(points).columns | {"epochs": np.where(points.tokens > 1e10, 3.0, 1.0)})
    assert "up to 3 times" in diagnostics.doubts_of_epochs(points, epochs)[0].text


def test_an_envelope_that_few_draws_have_is_doubted():
    # Nine sizes at five lengths: a draw of such runs seldom has a size between two neighbours.
    few = diagnostics.limits_of_approach_1(fit_envelope(runs(), 30, 0), 30)
    assert "rests on 3 sizes" in few[0]
    assert "of 30 bootstrap draws" in few[1]
    assert diagnostics.limits_of_approach_1(fit_envelope(curves(), 30, 0), 30) == []


def test_two_lengths_do_not_tell_the_floor_from_the_term_of_data():
    # Any beta goes through two lengths, with E and B after it; it was said of sizes alone.
    n = np.repeat(np.geomspace(1e7, 1e10, 8), 2)
    two = of(n, np.tile([1e9, 1e11], 8), 0.005)
    assert "2 lengths only (under 3)" in "\n".join(diagnostics.limits_of_runs(two))
    nearly = dataclasses.replace(two, tokens=two.tokens * np.linspace(1.0, 1.02, len(two)))
    assert "2 lengths only" in "\n".join(diagnostics.limits_of_runs(nearly))
    three = of(np.repeat(n[::2], 3), np.tile([1e9, 1e10, 1e11], 8), 0.005)
    assert "lengths" not in "\n".join(diagnostics.limits_of_runs(three))


def test_single_epochs_of_more_parameters_than_their_tokens_can_use_are_doubted():
    # The base counts them whole, the law of repeated data does not: half-lives came out biased.
    points = runs_with_epochs()
    once = np.flatnonzero(single_epoch(points))
    base = fit(Chinchilla.of(points.take(once)), points.take(once), Objective())
    fitted = fit(Repeated(base.law, base.theta), points, Objective())
    assert diagnostics.limits_of_repetition(fitted, points) == []
    tokens = points.tokens.copy()
    tokens[once[:5]] = points.parameters[once[:5]]  # one a parameter; about 20 are optimal
    unique = np.where(single_epoch(points), tokens, points.unique_tokens)
    short = dataclasses.replace(points, tokens=tokens, unique_tokens=unique)
    said = diagnostics.limits_of_repetition(fitted, short)
    assert said[0].startswith(f"5 of {len(once)} runs of a single epoch have more parameters")
    assert "up to 19.6 times as many" in said[0]  # U_N = 0.051 U_D, equation 17 of the paper

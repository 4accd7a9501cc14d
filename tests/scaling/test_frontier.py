"""Optima by closed form against a search; the three approaches on runs whose optimum is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from tests.scaling.synthetic import BUDGETS, TRUTH, isoflop, loss
from unijax.core.errors import UserError
from unijax.scaling import envelope
from unijax.scaling import isoflop as approach_2
from unijax.scaling.bootstrap import bootstrap
from unijax.scaling.fit import fit
from unijax.scaling.frontier import closed_form, losses, of_law, power_law
from unijax.scaling.laws import Chinchilla
from unijax.scaling.objective import Objective
from unijax.scaling.points import Points

TRUE_A = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])
LOPSIDED = {"E": 1.8, "A": 60.0, "B": 60000.0, "alpha": 0.22, "beta": 0.52}


@settings(max_examples=40, deadline=None)
@given(st.floats(0.1, 0.9), st.floats(0.1, 0.9), st.floats(-1, 1), st.floats(-1, 1),
       st.floats(1e17, 1e24), st.floats(4.0, 9.0))  # fmt: skip
def test_closed_form_by_search(alpha, beta, a, b, flops, k):
    points = isoflop(BUDGETS[:2])
    law = Chinchilla.of(points)
    theta = np.array([0.5, a, b, alpha, beta])
    c = {name: v[0] for name, v in law.constants(theta[None]).items()}
    line = closed_form(law, theta[None], k)
    log_n = line[0, 0] + line[0, 1] * np.log(flops)

    def at(x):
        return loss(np.exp(x), flops / k / np.exp(x), c)

    found = minimize_scalar(at, bounds=(log_n - 5, log_n + 5), method="bounded",
                            options={"xatol": 1e-10})  # fmt: skip
    # Near its minimum the loss is flat: the search knows where it is to half of its digits.
    assert found.x == pytest.approx(log_n, abs=1e-4)
    n = np.exp(log_n).reshape(1, 1)
    assert losses(law, theta[None], n, flops / k / n)[0, 0] == pytest.approx(found.fun, rel=1e-12)


def test_lines_are_numpys():
    rng = np.random.default_rng(0)
    flops, sizes = np.exp(rng.normal(40, 3, 9)), np.exp(rng.normal(15, 2, 9))
    slope, intercept = np.polyfit(np.log(flops), np.log(sizes), 1)
    found = power_law(flops, sizes[None], np.ones((1, 9)))[0]
    np.testing.assert_allclose(found, [intercept, slope], rtol=1e-9)


def test_all_approaches_find_the_exponent():
    points = isoflop(np.geomspace(1e18, 1e21, 6), sizes=9, width=4.0, noise=0.001)
    fitted = fit(Chinchilla.of(points), points, Objective())
    draws = bootstrap(fitted, points, 200, 0)
    three = of_law(fitted.law, fitted.theta, draws, points)
    two, valleys = approach_2.fit_isoflop(points, 200, 0)
    assert len(valleys) == 6
    assert all(v.inside for v in valleys)
    for found, off in ((three, 0.01), (two, 0.02)):
        assert found.exponents[0] == pytest.approx(TRUE_A, abs=off)
        assert sum(found.exponents) == pytest.approx(1)
        for (low, high), true in zip(found.exponent_intervals(0.95), (TRUE_A, 1 - TRUE_A)):
            assert low < true < high
        far = np.array([1e23])
        low, high = found.parameter_interval(far, 0.95)[:, 0]
        assert low < found.optimal_parameters(far)[0] < high
        pairs = found.optimal_parameters(far) * found.optimal_tokens(far)
        assert pairs == pytest.approx(1e23 / 6)


def curves() -> Points:
    """Ten sizes, each with a decay at twelve lengths."""
    n = np.repeat(np.geomspace(2e7, 3e9, 10), 12)
    d = np.tile(np.geomspace(1e8, 3e11, 12), 10)
    return Points(n, d, loss(n, d))


def test_the_envelope_finds_the_exponent_from_curves():
    found = envelope.fit_envelope(curves(), 20, 0)
    assert found.exponents[0] == pytest.approx(TRUE_A, abs=0.02)
    assert found.draws.shape == (20, 2)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_the_envelope_by_hand(seed):
    # Curves that start and end anywhere.
    rng, points = np.random.default_rng(seed), curves()
    points = points.take(np.flatnonzero(rng.random(len(points)) < 0.5))
    flops, best, lowest = envelope.envelope(points, 60)
    sizes, expected = np.unique(points.parameters), {}
    x = np.log(points.compute)
    for c in np.linspace(x.min(), x.max(), 60):
        at = []
        for size in sizes:
            here = np.flatnonzero(points.parameters == size)
            here = here[np.argsort(x[here])]
            alive = x[here[0]] <= c <= x[here[-1]]
            at.append(np.interp(c, x[here], points.loss[here]) if alive else np.inf)
        i = int(np.argmin(at))
        if 0 < i < len(sizes) - 1 and max(at[i - 1], at[i + 1]) < np.inf:
            expected[c] = (sizes[i], at[i])
    np.testing.assert_allclose(np.log(flops), list(expected), rtol=1e-12)
    np.testing.assert_allclose(np.array([best, lowest]).T.ravel(), np.ravel([*expected.values()]))


def test_a_size_is_not_best_because_the_curves_of_better_ones_ended():
    # The smallest size is the best wherever it was run, and its curve ends first; then the next's.
    n = np.repeat(np.geomspace(2e7, 1e9, 6), 8)
    d = np.tile(np.geomspace(1e8, 1e10, 8), 6)
    points = Points(n, d, 2 + 1e3 * (n * n * d) ** -0.2 * (n / 2e7) ** 0.5)
    with pytest.raises(UserError, match=r"0 sizes that are the best .* not ended"):
        envelope.fit_envelope(points, 10, 0)


def test_curves_that_end_early_do_not_bend_the_envelope():
    points = curves()
    largest = np.unique(points.parameters)[-1]
    ends = 20 * points.parameters * np.where(points.parameters < largest, 1.0, 1e3)
    short = points.take(np.flatnonzero(points.tokens < np.maximum(ends, 1e10)))
    assert len(short) < len(points)
    whole, found = (envelope.envelope(p)[:2] for p in (points, short))
    # Where it speaks it says what the whole curves say.
    at = np.interp(np.log(found[0]), np.log(whole[0]), np.log(whole[1]))
    ladder = np.log(points.parameters[12] / points.parameters[0])
    assert len(found[0])
    assert np.abs(np.log(found[1]) - at).max() < 1.01 * ladder


def test_one_length_a_size_has_no_envelope():
    n = np.geomspace(1e7, 1e9, 8)
    with pytest.raises(UserError, match="approach 1: found 0 sizes"):
        envelope.fit_envelope(Points(n, 20 * n, loss(n, 20 * n)), 10, 0)


def test_a_parabola_without_noise_is_exact_where_the_valley_is_one():
    # Exactly quadratic in log N: approach 2 must find its minimum to rounding.
    flops = np.repeat([1e18, 1e19, 1e20], 5)
    best = 1e8 * (flops / 1e18) ** 0.5
    n = best * np.tile([0.3, 0.6, 1.1, 2.0, 5.0], 3)
    points = Points(n, flops / 6 / n, 2 + 0.1 * np.log(n / best) ** 2)
    found, valleys = approach_2.fit_isoflop(points, 0, 0)
    np.testing.assert_allclose([v.parameters for v in valleys], [1e8, 10**8.5, 1e9], rtol=1e-6)
    np.testing.assert_allclose([v.loss for v in valleys], 2.0, rtol=1e-9)
    assert found.exponents[0] == pytest.approx(0.5, abs=1e-6)


def test_bias_of_approach_2_grows_with_asymmetry_and_off_centre_sizes():
    def of(c, shift):
        points = isoflop(BUDGETS, sizes=9, width=8.0, c=c)
        n = points.parameters * shift
        points = Points(n, points.compute / 6 / n, loss(n, points.compute / 6 / n, c))
        fitted = fit(Chinchilla.of(points), points, Objective())
        return approach_2.bias(fitted.law, fitted.theta, points)

    even = {"E": 1.8, "A": 400.0, "B": 400.0, "alpha": 0.35, "beta": 0.35}
    # A valley that is symmetric in log N, and sizes around its middle: none.
    exponent, ratio = of(even, 1.0)
    assert abs(exponent) < 1e-6
    assert ratio == pytest.approx(1.0, abs=1e-6)
    off = [abs(np.log(of(even, shift)[1])) for shift in (1.0, 1.5, 2.5)]
    assert 100 * off[0] < off[1] < off[2]
    assert abs(np.log(of(LOPSIDED, 1.0)[1])) > 0.1


def test_one_side_of_the_valley_is_refused():
    points = isoflop(BUDGETS)
    best = isoflop(BUDGETS, sizes=1, width=1.0).parameters
    n = np.repeat(best, 4) * np.tile([3.0, 5.0, 9.0, 16.0], len(BUDGETS))
    flops = np.repeat(BUDGETS, 4)
    points = Points(n, flops / 6 / n, loss(n, flops / 6 / n))
    assert not any(v.inside for v in approach_2.valleys(points))
    with pytest.raises(UserError, match="0 of 6 budgets"):
        approach_2.fit_isoflop(points, 10, 0)


def test_budgets_are_told_apart_although_compute_is_not_quite_equal():
    points = isoflop(BUDGETS)
    flops = points.compute * np.exp(np.random.default_rng(0).normal(0, 0.01, len(points)))
    points = Points(points.parameters, points.tokens, points.loss, flops)
    groups = approach_2.budgets(points)
    assert [len(g) for g in groups] == [7] * 6


def scattered(seed: int) -> Points:
    """92 runs over a factor of 9.4 in compute, each near to the next."""
    rng = np.random.default_rng(seed)
    flops = np.sort(1e19 * 9.4 ** rng.random(92))
    n = 3e8 * np.sqrt(flops / 1e19) * np.exp(rng.uniform(-1.5, 1.5, 92))
    return Points(n, flops / 6 / n, loss(n, flops / 6 / n))


def test_runs_that_are_each_near_to_the_next_were_chained_to_one_budget():
    # They were one, and its minimum an outlier; then every dense spot of some was one.
    found = [approach_2.budgets(scattered(seed)) for seed in range(200)]
    assert sum(map(bool, found)) <= 4
    between = scattered(0)
    assert np.diff(np.log(between.compute)).max() < approach_2.SAME_BUDGET[0]
    # Budgets among such runs are found whole, with hardly a neighbour.
    budgets = isoflop(np.array([2e19, 6e19]), sizes=15, width=5.0)
    both = Points(*(np.append(getattr(between, k), getattr(budgets, k))
                    for k in ("parameters", "tokens", "loss")))  # fmt: skip
    found = [set(g) for g in approach_2.budgets(both)]
    for first in (92, 107):
        assert any(set(range(first, first + 15)) <= g and len(g) < 18 for g in found)


def test_sizes_that_hardly_differ_bent_a_parabola_out_of_sight():
    n = np.repeat([1e8, 1.04e8, 1.08e8], 5) * np.tile([1, 2, 4, 8, 16], 3)
    flops = 1e18 * np.tile([1.0, 4.0, 16.0, 64.0, 256.0], 3)
    assert approach_2.budgets(Points(n, flops / 6 / n, loss(n, flops / 6 / n))) == []
    n[5:10] *= 1.3
    n[10:] *= 1.6
    groups = approach_2.budgets(Points(n, flops / 6 / n, loss(n, flops / 6 / n)))
    assert [len(g) for g in groups] == [3] * 5


@pytest.mark.parametrize(("sizes", "width", "noise"), [(5, 3.0, 0.001), (7, 8.0, 0.005)])
def test_intervals_of_approach_2_are_as_wide_as_studies_scatter(sizes, width, noise):
    # Draws of runs made them 2 to 3.5 times as wide: few runs, and a valley is no parabola.
    truth = approach_2.fit_isoflop(isoflop(BUDGETS, sizes, width), 0, 0)[0].line[1]
    found = [
        approach_2.fit_isoflop(isoflop(BUDGETS, sizes, width, noise, s), 200, 0)[0]
        for s in range(80)
    ]
    scatter = np.std([f.exponents[0] for f in found])
    ends = np.array([f.exponent_intervals(0.95)[0] for f in found])
    assert 0.8 < np.median(np.diff(ends)) / (2 * 1.96 * scatter) < 1.4
    # Of its own line, whose bias noise does not change: 68 of 80 is what chance allows in 99.9%.
    assert ((ends[:, 0] < truth) & (truth < ends[:, 1])).sum() >= 68


def test_parabolas_through_all_runs_have_no_interval():
    with pytest.raises(UserError, match="3 runs at each budget"):
        approach_2.fit_isoflop(isoflop(BUDGETS, sizes=3, width=3.0), 10, 0)

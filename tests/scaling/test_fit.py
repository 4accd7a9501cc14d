"""The search finds the minimum: exactly without noise, and as others do with it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit, minimize
from scipy.special import huber

from tests.scaling.synthetic import BUDGETS, TRUTH, isoflop, loss
from unijax.core.errors import UserError
from unijax.scaling import direct
from unijax.scaling.fit import fit
from unijax.scaling.laws import Chinchilla
from unijax.scaling.objective import Objective
from unijax.scaling.points import Points


@settings(max_examples=15, deadline=None)
@given(
    st.floats(0.5, 3.0), st.floats(0.2, 0.7), st.floats(0.2, 0.7), st.floats(0.05, 1.0),
    st.floats(0.05, 1.0),
)  # fmt: skip
def test_constants_are_found_exactly_without_noise(e, alpha, beta, share_a, share_b):
    middle_n, middle_d = 1e8, 3e9
    c = {"E": e, "A": share_a * e * middle_n**alpha, "B": share_b * e * middle_d**beta,
         "alpha": alpha, "beta": beta}  # fmt: skip
    n = np.repeat(np.geomspace(1e7, 1e9, 6), 5)
    d = np.tile(np.geomspace(3e8, 3e10, 5), 6)
    points = Points(n, d, loss(n, d, c))
    fitted = fit(Chinchilla.of(points), points, Objective())
    for name, value in fitted.constants().items():
        assert value == pytest.approx(c[name], rel=1e-4), name


def test_noise_makes_no_other_minimum_than_the_published_search_finds():
    points = isoflop(BUDGETS, noise=0.01, seed=3)
    fitted = fit(Chinchilla.of(points), points, Objective())
    constants, value = direct.fit_directly(points, starts=12)
    assert fitted.value <= value * (1 + 1e-9)
    assert fitted.value == pytest.approx(value, rel=1e-4)
    for name, ours in fitted.constants().items():
        assert constants[name] == pytest.approx(ours, rel=0.05), name


def test_the_minimum_is_stationary_by_a_search_without_derivatives():
    points = isoflop(BUDGETS, noise=0.01, seed=4)
    fitted = fit(Chinchilla.of(points), points, Objective())

    def by_hand(theta):
        e, a, b, alpha, beta = theta
        x = np.log(points.parameters) - fitted.law.middle[0]
        y = np.log(points.tokens) - fitted.law.middle[1]
        predicted = np.exp(e) + np.exp(a - alpha * x) + np.exp(b - beta * y)
        return np.sum(huber(1e-3, np.log(predicted / points.loss)))

    assert by_hand(fitted.theta) == pytest.approx(fitted.value, rel=1e-12)
    options = {"xatol": 1e-10, "fatol": 1e-16, "maxiter": 4000, "maxfev": 4000}
    found = minimize(by_hand, fitted.theta, method="Nelder-Mead", options=options)
    assert found.fun >= fitted.value * (1 - 1e-7)


def test_squares_of_losses_are_scipys_least_squares():
    points = isoflop(BUDGETS, noise=0.01, seed=5)
    fitted = fit(Chinchilla.of(points), points, Objective(np.inf, "linear"))
    law = lambda x, e, a, b, p, q: e + a * (x[0] / 1e8) ** -p + b * (x[1] / 1e9) ** -q  # noqa: E731
    x = np.stack([points.parameters, points.tokens])
    (e, a, b, p, q), _ = curve_fit(law, x, points.loss, p0=[1.8, 0.8, 0.9, 0.3, 0.3], xtol=1e-14)
    found = fitted.constants()
    assert found["E"] == pytest.approx(e, rel=1e-5)
    assert found["alpha"] == pytest.approx(p, rel=1e-5)
    assert found["beta"] == pytest.approx(q, rel=1e-5)
    assert found["A"] == pytest.approx(a * 1e8**p, rel=1e-4)
    assert found["B"] == pytest.approx(b * 1e9**q, rel=1e-4)


def test_an_outlier_moves_squares_and_not_huber():
    points = isoflop(BUDGETS, noise=0.002, seed=6)
    points.loss[20] *= 1.5
    robust = fit(Chinchilla.of(points), points, Objective()).constants()
    squares = fit(Chinchilla.of(points), points, Objective(np.inf)).constants()
    assert abs(robust["beta"] - TRUTH["beta"]) < 0.02
    assert abs(squares["beta"] - TRUTH["beta"]) > 2 * abs(robust["beta"] - TRUTH["beta"])


def test_the_sum_is_not_an_average():
    points = isoflop(BUDGETS, noise=0.01)
    twice = points.take(np.tile(np.arange(len(points)), 2))
    once = fit(Chinchilla.of(points), points, Objective())
    assert fit(once.law, twice, Objective()).value == pytest.approx(2 * once.value, rel=1e-9)


def test_gradient_of_the_published_search():
    points = isoflop(BUDGETS, noise=0.01)
    theta = np.array([6.0, 7.5, 0.5, 0.34, 0.36])
    _, gradient = direct.objective(theta, points, 1e-3)
    for i, step in enumerate(1e-6 * np.eye(5)):
        up, down = (direct.objective(theta + s * step, points, 1e-3)[0] for s in (1, -1))
        assert gradient[i] == pytest.approx((up - down) / 2e-6, rel=1e-5)


def test_as_many_constants_as_runs_are_refused():
    points = isoflop(BUDGETS[:1], sizes=5)
    with pytest.raises(UserError, match="5 runs; expected more than the 5 constants"):
        fit(Chinchilla.of(points), points, Objective())


def test_agreement_with_vpnls():
    vpnls = pytest.importorskip(
        "vpnls.api", reason="the package vpnls is not installed: nothing to compare with"
    )
    points = isoflop(BUDGETS, noise=0.01, seed=7)
    theirs = vpnls.fit_vpnls(
        points.parameters / 1e6, points.tokens / 1e9, points.loss, method="scipy",
        loss=vpnls.huber(1e-3), max_irls_iter=200,
    )  # fmt: skip
    ours = fit(Chinchilla.of(points), points, Objective(1e-3, "linear"))
    found = ours.constants()
    assert theirs.alpha == pytest.approx(found["alpha"], rel=2e-3)
    assert theirs.beta == pytest.approx(found["beta"], rel=2e-3)
    assert theirs.E == pytest.approx(found["E"], rel=1e-3)  # noqa: SIM300
    # Their residuals, by their constants, are not below our minimum.
    n, d = points.parameters / 1e6, points.tokens / 1e9
    predicted = theirs.E + theirs.A * n**-theirs.alpha + theirs.B * d**-theirs.beta
    assert ours.value <= np.sum(huber(1e-3, predicted - points.loss)) * (1 + 1e-6)

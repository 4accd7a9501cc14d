"""Derivatives of every law against differences, and the objective against scipy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import huber

from tests.scaling.synthetic import BUDGETS, isoflop
from unijax.core.errors import UserError
from unijax.scaling.bimodal import Bimodal, MixedPoints
from unijax.scaling.fit import fit
from unijax.scaling.laws import Chinchilla
from unijax.scaling.objective import Objective
from unijax.scaling.points import Points
from unijax.scaling.repeated import Repeated


def chinchilla(tied: bool):
    points = isoflop(BUDGETS[:3], sizes=4)
    law = Chinchilla.of(points, tied)
    return law, points, np.array([0.6, -0.5, -0.7, 0.33, 0.41][: 4 if tied else 5])


def repeated():
    points = isoflop(BUDGETS[:3], sizes=4)
    base = Chinchilla.of(points)
    theta = np.array([0.6, -0.5, -0.7, 0.33, 0.41])
    unique = points.tokens / np.geomspace(1.0, 60.0, len(points))
    seen_again = Points(points.parameters, points.tokens, points.loss, None, unique)
    return Repeated(base, theta), seen_again, np.append(theta, np.log([15.0, 5.0]))


def bimodal():
    points = isoflop(BUDGETS[:3], sizes=4)
    one = fit(Chinchilla.of(points), points, Objective())
    mixed = MixedPoints(points.parameters, points.tokens / 2, points.tokens / 2, points.loss)
    law = Bimodal.of(one, one, mixed)
    return law, mixed, np.concatenate([one.theta, one.theta, [0.2, -2.0, -2.5, 0.3, 0.2]])


LAWS = {"chinchilla": lambda: chinchilla(False), "tied": lambda: chinchilla(True),
        "repeated": repeated, "bimodal": bimodal}  # fmt: skip


@pytest.mark.parametrize("name", LAWS)
def test_derivatives_by_differences(name):
    law, points, theta = LAWS[name]()
    assert len(theta) == len(law.names) == len(law.free) == len(law.lower) == len(law.upper)
    _, jacobian = law.predict(theta[None], points)
    for i in np.flatnonzero(law.free):
        step = 1e-6 * np.eye(len(theta))[i]
        up, down = (law.predict((theta + s * step)[None], points)[0][0] for s in (1, -1))
        np.testing.assert_allclose(
            jacobian[0, :, i], (up - down) / 2e-6, rtol=1e-6, atol=1e-8, err_msg=law.names[i]
        )


@pytest.mark.parametrize("name", LAWS)
def test_many_vectors_at_once_are_each_alone(name):
    law, points, theta = LAWS[name]()
    several = np.stack([theta, theta * 1.01, theta * 0.99])
    losses, jacobians = law.predict(several, points)
    for i, one in enumerate(several):
        loss, jacobian = law.predict(one[None], points)
        np.testing.assert_allclose(losses[i], loss[0], rtol=1e-14)
        np.testing.assert_allclose(jacobians[i], jacobian[0], rtol=1e-13)


def test_published_constants_are_those_of_the_curve():
    law, points, theta = chinchilla(False)
    c = {k: v[0] for k, v in law.constants(theta[None]).items()}
    n, d = points.parameters, points.tokens
    written_out = c["E"] + c["A"] * n ** -c["alpha"] + c["B"] * d ** -c["beta"]
    np.testing.assert_allclose(law.predict(theta[None], points)[0][0], written_out, rtol=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-0.1, 0.1), min_size=1, max_size=20), st.floats(1e-4, 1.0))
def test_the_objective_is_scipys_huber_summed(residuals, delta):
    r = np.array(residuals)
    weights = np.arange(len(r)) % 3.0
    found = Objective(delta).value(r, weights)
    np.testing.assert_allclose(found, np.sum(weights * huber(delta, r)), rtol=1e-12, atol=1e-300)


def test_infinite_delta_is_squares():
    r = np.array([0.5, -2.0])
    assert Objective(np.inf, "linear").value(r, np.ones(2)) == pytest.approx(np.sum(r**2) / 2)


@pytest.mark.parametrize("wrong", [{"residual": "square"}, {"delta": 0.0}, {"delta": float("nan")}])
def test_wrong_objectives_are_refused(wrong):
    with pytest.raises(UserError):
        Objective(**wrong)

"""Published fits found again from published runs."""

import numpy as np
import pytest

from tests.scaling import published
from unijax.scaling.bootstrap import bootstrap, interval
from unijax.scaling.direct import fit_directly
from unijax.scaling.fit import fit
from unijax.scaling.frontier import closed_form
from unijax.scaling.isoflop import budgets
from unijax.scaling.laws import Chinchilla
from unijax.scaling.objective import Objective
from unijax.scaling.points import Points

# Besiroglu et al. (arXiv 2404.10102) and their repository.
EPOCH = {"E": 1.817235504, "A": 477.84171, "B": 2143.86379, "alpha": 0.347312658,
         "beta": 0.367182617}  # fmt: skip
EPOCH_OBJECTIVE = 0.00101827403
EPOCH_INTERVALS = {"A": (285, 744), "B": (1042, 5810), "E": (1.769, 1.871),
                   "alpha": (0.317, 0.373), "beta": (0.331, 0.415)}  # fmt: skip


@pytest.fixture(scope="module")
def epoch():
    points = published.chinchilla()
    assert len(points) == 240
    return points, fit(Chinchilla.of(points), points, Objective())


def test_constants_of_the_chinchilla_replication(epoch):
    _, fitted = epoch
    # Nowhere above the published minimum, which was not followed to its last digit.
    assert fitted.value <= EPOCH_OBJECTIVE * (1 + 1e-8)
    assert fitted.value == pytest.approx(EPOCH_OBJECTIVE, rel=1e-7)
    found = fitted.constants()
    for name, rel in (("E", 2e-5), ("A", 1e-4), ("B", 4e-4), ("alpha", 2e-5), ("beta", 5e-5)):
        assert found[name] == pytest.approx(EPOCH[name], rel=rel), name


def test_the_published_search_ends_at_the_same_minimum(epoch):
    points, fitted = epoch
    constants, value = fit_directly(points, starts=6)
    assert value == pytest.approx(fitted.value, rel=1e-6)
    assert value >= fitted.value * (1 - 1e-9)
    for name, ours in fitted.constants().items():
        assert constants[name] == pytest.approx(ours, rel=1e-2), name


def test_published_intervals_of_the_bootstrap(epoch):
    points, fitted = epoch
    draws = fitted.law.constants(bootstrap(fitted, points, 2000, seed=0))
    for name, (low, high) in EPOCH_INTERVALS.items():
        ends = interval(draws[name], 0.95)
        # Both intervals are of random draws: their ends agree within a tenth of their width.
        np.testing.assert_allclose(ends, (low, high), atol=0.1 * (high - low), err_msg=name)


def test_outliers_move_the_exponent_of_data_as_published():
    points = published.chinchilla(outliers=0)
    fitted = fit(Chinchilla.of(points), points, Objective())
    assert fitted.constants()["beta"] == pytest.approx(0.453, abs=1e-3)


def test_nine_published_budgets_among_other_runs_were_chained_together():
    # Hoffmann et al., figure 3; in figure 4 as many runs again lie between them.
    points = published.chinchilla(outliers=0)
    found = [np.exp(np.log(points.compute[g]).mean()) for g in budgets(points)]
    nominal = [6e18, 1e19, 3e19, 6e19, 1e20, 3e20, 6e20, 1e21, 3e21]
    np.testing.assert_allclose(found, nominal, rtol=0.12)


def test_the_optimum_of_the_replication_is_near_twenty_tokens_a_parameter(epoch):
    # Besiroglu et al., section 5: at Chinchilla's budget, 5.76e23 FLOPs.
    _, fitted = epoch
    flops = 5.76e23
    intercept, slope = closed_form(fitted.law, fitted.theta[None], 6.0)[0]
    n = np.exp(intercept + slope * np.log(flops))
    assert 15 < flops / (6 * n) / n < 30


@pytest.mark.parametrize("data", ["c4_original", "rpj", "rw_original"])
def test_constants_and_predictions_of_gadre(data):
    # Gadre et al. (arXiv 2403.08540) fit least squares of losses to five runs.
    one = published.gadre()[data]
    columns = [[float(p[k]) for p in one["fit_points"]] for k in ("N", "D", "loss_c4_val")]
    points = Points(*map(np.array, columns))
    fitted = fit(Chinchilla.of(points, tied=True), points, Objective(np.inf, "linear"))
    found, theirs = fitted.constants(), one["repo_param"]
    b = -found["alpha"]
    assert b == pytest.approx(theirs["b"], rel=1e-6)
    assert found["E"] == pytest.approx(theirs["E"], rel=1e-6)
    assert found["A"] == pytest.approx(theirs["alpha"], rel=1e-6)
    assert found["B"] / 6 ** (b / 2) == pytest.approx(theirs["beta"], rel=1e-6)
    runs = published.gadre_runs()
    for name, prediction in one["predictions"].items():
        model, ratio = name.split(" M=")
        n = float(runs[f"{data}-{model}-{float(ratio) / 20}"]["N"])
        run = Points(np.array([n]), np.array([float(ratio) * n]), np.array([prediction["true"]]))
        assert fitted.predict(run)[0] == pytest.approx(prediction["pred"], rel=1e-6)


def test_large_runs_of_gadre_are_predicted_within_the_published_error_by_our_objective_too():
    one = published.gadre()["rpj"]
    columns = [[float(p[k]) for p in one["fit_points"]] for k in ("N", "D", "loss_c4_val")]
    points = Points(*map(np.array, columns))
    fitted = fit(Chinchilla.of(points, tied=True), points, Objective())
    for n, ratio, true, most in (
        (1439795200.0, 640.0, 2.502053562117363, 0.71),
        (6889410560.0, 20.0, 2.424993099368689, 0.73),
    ):
        run = Points(np.array([n]), np.array([ratio * n]), np.array([true]))
        assert 100 * abs(fitted.predict(run)[0] / true - 1) < most

"""Repeated data, two modalities, parity."""

import dataclasses

import numpy as np
import pytest

from tests.scaling.synthetic import BUDGETS, TRUTH, as_chosen, isoflop, loss
from unijax.core.errors import UserError
from unijax.scaling import diagnostics
from unijax.scaling.bimodal import Bimodal, MixedPoints
from unijax.scaling.bootstrap import bootstrap, interval
from unijax.scaling.fit import fit
from unijax.scaling.laws import Chinchilla
from unijax.scaling.objective import Objective
from unijax.scaling.parity import parity
from unijax.scaling.points import Points
from unijax.scaling.repeated import (
    Repeated,
    bootstrap_half_lives,
    optimal_parameters,
    single_epoch,
    worth,
)
from unijax.scaling.study import FitConfig, analyse

# Muennighoff et al. (arXiv 2305.16264, appendix A): fitted constants.
MUENNIGHOFF = {"E": np.exp(0.6254804), "A": np.exp(6.255414), "B": np.exp(7.3049974),
               "alpha": 0.3526596, "beta": 0.3526596}  # fmt: skip
R_D, R_N = 15.387756, 5.309743


def law_of_repetition(n, d, unique, c=MUENNIGHOFF, r_d=R_D, r_n=R_N):
    """The law by hand, one run at a time."""
    out = []
    for n1, d1, u in zip(n, d, unique):
        g = (c["alpha"] * c["A"] / (c["beta"] * c["B"])) ** (1 / (c["alpha"] + c["beta"]))
        useful = min(n1, g * (g * u) ** (c["beta"] / c["alpha"]))
        d2 = u + u * r_d * (1 - np.exp(-(d1 / u - 1) / r_d))
        n2 = useful + useful * r_n * (1 - np.exp(-(n1 / useful - 1) / r_n))
        out.append(loss(n2, d2, c))
    return np.array(out)


def runs_with_epochs(noise: float = 0.0) -> Points:
    # Single epochs of no more parameters than their tokens can use: there both laws are one.
    once_n = np.repeat(np.geomspace(1e7, 3e9, 6), 4)
    once_d = once_n * np.tile([20.0, 60.0, 200.0, 1000.0], 6)
    again_n = np.repeat(np.geomspace(1e7, 3e9, 6), 12)
    unique = np.tile(np.repeat([1e8, 4e8, 1.5e9], 4), 6)
    epochs = np.tile([2.0, 6.0, 20.0, 60.0], 18)
    n = np.concatenate([once_n, again_n])
    d = np.concatenate([once_d, unique * epochs])
    u = np.concatenate([once_d, unique])
    off = np.random.default_rng(0).normal(0, noise, len(n))
    return Points(n, d, law_of_repetition(n, d, u) * np.exp(off), None, u)


def test_published_optimum_of_parameters_for_unique_tokens():
    # "U_N = 0.051 U_D", equation 17.
    c = {k: np.array(v) for k, v in MUENNIGHOFF.items()}
    tokens = np.array([1e8, 1e10, 1e12])
    np.testing.assert_allclose(optimal_parameters(c, tokens) / tokens, 0.051, atol=5e-4)


def test_published_limit_and_start_of_repetition():
    # Section 3.1: no more than U + U R_D* fresh tokens, and at R = R_D* a share of 1 - 1/e of it.
    unique = np.array([1e9])
    most, _ = worth(unique, np.array([1e6]), np.array([R_D]))
    assert most[0] == pytest.approx(1e9 * (1 + R_D))
    at, _ = worth(unique, np.array([R_D]), np.array([R_D]))
    assert at[0] == pytest.approx(1e9 * (1 + R_D * (1 - np.exp(-1))))
    none, _ = worth(unique, np.array([0.0]), np.array([R_D]))
    assert none[0] == 1e9


def test_repetition_is_nearly_a_geometric_series():
    # Appendix A: each pass is worth (1 - delta) of the one before, R* = (1 - delta) / delta.
    delta = 1 / (1 + R_D)
    for passes in (2, 5, 10, 40):
        series = sum((1 - delta) ** k for k in range(passes))
        value, _ = worth(np.array([1.0]), np.array([passes - 1.0]), np.array([R_D]))
        assert value[0] == pytest.approx(series, rel=0.03)


def test_half_lives_are_found():
    points = runs_with_epochs()
    once = points.take(np.flatnonzero(single_epoch(points)))
    base = fit(Chinchilla.of(once), once, Objective())
    fitted = fit(Repeated(base.law, base.theta), points, Objective())
    found = fitted.constants()
    assert found["R_D"] == pytest.approx(R_D, rel=1e-3)
    assert found["R_N"] == pytest.approx(R_N, rel=1e-3)
    assert found["alpha"] == pytest.approx(MUENNIGHOFF["alpha"], rel=1e-4)
    np.testing.assert_allclose(fitted.predict(points), points.loss, rtol=1e-5)


def test_intervals_of_half_lives_hold_them():
    points = runs_with_epochs(noise=0.003)
    once = points.take(np.flatnonzero(single_epoch(points)))
    base = fit(Chinchilla.of(once), once, Objective())
    fitted = fit(Repeated(base.law, base.theta), points, Objective())
    drawn = bootstrap_half_lives(fitted, points, bootstrap(base, once, 150, 0), 0)
    for name, truth in (("R_D", R_D), ("R_N", R_N)):
        low, high = interval(fitted.law.constants(drawn)[name], 0.99)
        assert low < truth < high
        assert high / low < 10


@pytest.mark.parametrize(
    ("r_d", "r_n", "doubt"),
    [
        (R_D, R_N, ""),
        (1e-3, R_N, "log_R_D ended at a bound"),
        (R_D, 1e-3, "log_R_N ended at a bound"),
        (1e6, R_N, "of the bootstrap's draws ended at a bound"),
    ],
)
def test_half_lives_at_the_bounds_of_the_search_are_told(r_d, r_n, doubt):
    points = runs_with_epochs(noise=0.003)
    known = law_of_repetition(*(getattr(points, x) for x in ("parameters", "tokens",
                              "unique_tokens")), r_d=r_d, r_n=r_n)  # fmt: skip
    off = points.loss / runs_with_epochs().loss
    points = dataclasses.replace(points, loss=known * off)
    config = FitConfig(draws=20, hold_out=0, repeated=True)
    found = analyse(as_chosen(points), "", "text", config)
    said = [w for w in found.limits if w.startswith("repeated data: ")]
    assert said == [] if not doubt else any(doubt in w for w in said)


def test_parameters_that_no_run_has_too_many_of_are_doubted():
    points = runs_with_epochs(noise=0.003)
    c = {k: np.array(v) for k, v in MUENNIGHOFF.items()}
    useful = optimal_parameters(c, points.unique_tokens)
    points = points.take(np.flatnonzero(points.parameters < 0.7 * useful))
    once = points.take(np.flatnonzero(single_epoch(points)))
    base = fit(Chinchilla.of(once), once, Objective())
    fitted = fit(Repeated(base.law, base.theta), points, Objective())
    said = diagnostics.limits_of_fit(fitted, points, np.empty((0, 7)))
    assert any("log_R_N changes no run's loss" in w for w in said)


def test_without_unique_tokens_nothing_is_known_of_repetition():
    with pytest.raises(UserError, match="no column unique_tokens"):
        single_epoch(isoflop(BUDGETS))


def mixed(c: float, a: float, b: float, alpha: float, beta: float):
    """Two known unimodal laws, and runs of both with a known interaction."""
    one, two = TRUTH, {"E": 2.5, "A": 90.0, "B": 400.0, "alpha": 0.25, "beta": 0.28}
    n = np.repeat(np.geomspace(1e7, 3e9, 7), 6)
    d = np.tile(np.geomspace(4e8, 1e11, 6), 7)
    unimodal = [Points(n, d, loss(n, d, law)) for law in (one, two)]
    mean = (loss(n, d / 2, one) + loss(n, d / 2, two)) / 2
    together = MixedPoints(n, d / 2, d / 2, mean - c + a * n**-alpha + b * d**-beta)
    fits = [fit(Chinchilla.of(p), p, Objective()) for p in unimodal]
    return fits, together, mean


def test_interaction_of_two_modalities_is_found():
    (first, second), together, mean = mixed(0.12, 40.0, 300.0, 0.3, 0.4)
    fitted = fit(Bimodal.of(first, second, together), together, Objective())
    found = fitted.constants()
    assert found["C"] == pytest.approx(0.12, rel=0.02)
    assert found["alpha"] == pytest.approx(0.3, rel=0.05)
    assert found["beta"] == pytest.approx(0.4, rel=0.05)
    np.testing.assert_allclose(fitted.predict(together), together.loss, rtol=1e-5)
    # The competition barrier: who is better than two runs apart is predicted run by run.
    apart = fitted.law.unimodal(fitted.theta[None], together)[0]
    np.testing.assert_allclose(apart, mean, rtol=1e-4)
    helped = fitted.predict(together) < apart
    assert helped.any()
    assert not helped.all()
    np.testing.assert_array_equal(helped, together.loss < mean)


def test_no_interaction_is_found_where_there_is_none():
    (first, second), together, mean = mixed(0.0, 0.0, 0.0, 0.3, 0.3)
    fitted = fit(Bimodal.of(first, second, together), together, Objective())
    np.testing.assert_allclose(fitted.predict(together), mean, rtol=1e-4)


# Transfusion, table 7 (linear layers) and table 3, 0.5T tokens: N, C4 and Wikipedia perplexity.
TRANSFUSION_N = np.array([162.4e6, 373.9e6, 777.9e6, 1364.3e6, 6738.4e6])
TRANSFUSION = {
    "C4": ([14.8, 12.0, 10.4, 9.5, 7.7], 8.41, 0.489),
    "Wikipedia": ([8.8, 7.0, 6.0, 5.4, 4.3], 4.69, 0.526),
    "Llama accuracy": ([44.2, 47.9, 51.7, 53.8, 61.5], 59.1, 0.600),
}


@pytest.mark.parametrize("metric", TRANSFUSION)
def test_published_parity_ratios_of_transfusion(metric):
    values, chameleon, published = TRANSFUSION[metric]
    flops = 6 * TRANSFUSION_N * 0.5e12
    found = parity(flops, np.array(values), float(flops[-1]), chameleon)
    # The table's metrics have two or three digits: the ratio is known to some percent.
    assert found.ratio == pytest.approx(published, rel=0.06)
    assert found.low < found.ratio < found.high
    assert found.beyond == 1.0


def test_parity_of_a_system_with_itself_is_one():
    flops = np.geomspace(1e18, 1e22, 6)
    found = parity(flops, 40 * flops**-0.05, float(flops[-1]), float(40 * flops[-1] ** -0.05))
    assert found.ratio == pytest.approx(1.0)


def test_a_crossing_outside_of_the_runs_is_said():
    flops = np.geomspace(1e18, 1e20, 5)
    found = parity(flops, flops**-0.1, 1e22, float(1e21**-0.1))
    assert found.ratio == pytest.approx(0.1)
    assert found.beyond == pytest.approx(10)


@pytest.mark.parametrize("metric", [[3.0, 2.0], [3.0, 2.0, -1.0], [3.0, 3.0, 3.0],
                                    [3.0, 2.0, np.nan]])  # fmt: skip
def test_metrics_without_a_power_law_are_refused(metric):
    with pytest.raises(UserError, match="parity"):
        parity(np.geomspace(1e18, 1e20, len(metric)), np.array(metric), 1e20, 1.0)

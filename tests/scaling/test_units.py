"""Parts of a table whose losses are in bits."""

import dataclasses

import numpy as np
import pytest

from tests.scaling.published import chinchilla
from tests.scaling.synthetic import BUDGETS, TRUTH, isoflop, loss
from unijax.scaling.points import Points
from unijax.scaling.units import warn_of_bits

MICRO = {"E": 4.0, "A": 8.0, "B": 40.0, "alpha": 0.3, "beta": 0.25}


def grid(constants: dict[str, float], seed: int) -> Points:
    """Five sizes at five lengths, with 0.5% of noise."""
    n, d = np.meshgrid([3e4, 6e4, 1e5, 3e5, 8e5], np.geomspace(2e5, 2e7, 5), indexing="ij")
    n, d = n.ravel(), d.ravel()
    noise = np.random.default_rng(seed).normal(0, 0.005, len(n))
    return Points(n, d, loss(n, d, constants) * np.exp(noise))


def said(points: Points) -> str:
    return "".join(warn_of_bits(points, [f"r{i}" for i in range(len(points))]))


def bits(points: Points, here) -> Points:
    return dataclasses.replace(points, loss=np.where(here, points.loss / np.log(2), points.loss))


@pytest.mark.parametrize(
    ("constants", "column", "end", "name"),
    [
        (TRUTH, "parameters", 4e4, "the 5 runs of at most 3e+04 parameters (r0, r1, r2 ...)"),
        (MICRO, "parameters", 2e5, "the 15 runs of at most 1e+05 parameters"),
        (TRUTH, "tokens", 1e6, "the 10 runs of at most 6.32e+05 tokens"),
        (TRUTH, "tokens", -1e6, "the 15 runs of at least 2e+06 tokens"),
        (MICRO, "tokens", -1e7, "the 5 runs of at least 2e+07 tokens"),
    ],
)
def test_small_or_long_runs_in_bits_were_fitted_in_silence(constants, column, end, name):
    points = grid(constants, 0)
    values = getattr(points, column)
    assert name in said(bits(points, values < end if end > 0 else values > -end))


@pytest.mark.parametrize(("constants", "seed"), [(TRUTH, 0), (MICRO, 1)])
def test_losses_in_one_unit_are_not_doubted(constants, seed):
    points = grid(constants, seed)
    assert said(points) == ""
    assert said(bits(points, points.parameters > 0)) == ""


def test_isoflop_and_published_runs_are_not_doubted():
    assert said(isoflop(BUDGETS, noise=0.02)) == ""
    assert said(chinchilla()) == ""

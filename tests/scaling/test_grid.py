"""Grids of runs and their names."""

import dataclasses
import itertools

import pytest

from unijax.core.errors import UserError
from unijax.core.record import build
from unijax.scaling.grid import GridConfig, cells, run_id

FLOPS = {32: 1e5, 64: 3e5, 96: 1e6}
PARAMETERS = {32: 10_000, 64: 30_000, 96: 100_000}


def of(**keys):
    grid = build(GridConfig, keys, "sweep")
    return cells(grid, FLOPS.__getitem__, PARAMETERS.__getitem__)


def test_isoflop_runs_last_as_long_as_the_budget():
    found = of(kind="isoflop", widths=[32, 64, 96], budgets=[1e10, 1e11])
    assert len(found) == 6
    assert all(c.tokens * FLOPS[c.width] == pytest.approx(c.budget) for c in found)
    assert [c.budget for c in found] == [1e10] * 3 + [1e11] * 3


def test_tokens_and_epochs():
    found = of(kind="tokens", widths=[32, 64], tokens=[1e5, 1e6])
    assert {(c.width, c.tokens) for c in found} == set(itertools.product((32, 64), (1e5, 1e6)))
    found = of(kind="epochs", widths=[32], epochs=[1.0, 4.0], unique_tokens=50_000)
    assert [c.tokens for c in found] == [50_000, 200_000]


def test_every_rate_and_seed():
    found = of(kind="tokens", widths=[32], tokens=[1e5], learning_rates=[1e-3, 3e-3], seeds=[0, 1])
    assert {(c.learning_rate, c.seed) for c in found} == {
        (1e-3, 0), (1e-3, 1), (3e-3, 0), (3e-3, 1),
    }  # fmt: skip


def test_runs_outside_of_the_ratio_are_left_out():
    all_of_them = of(kind="isoflop", widths=[32, 64, 96], budgets=[1e11])
    some = of(kind="isoflop", widths=[32, 64, 96], budgets=[1e11], tokens_per_parameter=[5.0, 50.0])
    kept = {c.width for c in all_of_them if 5 <= c.tokens / PARAMETERS[c.width] <= 50}
    assert {c.width for c in some} == kept == {64}
    short = of(kind="isoflop", widths=[32, 64, 96], budgets=[1e11], most_tokens=5e5)
    assert [c.width for c in short] == [64, 96]
    with pytest.raises(UserError, match="no run between"):
        of(kind="isoflop", widths=[32], budgets=[1e5], tokens_per_parameter=[10.0, 20.0])


@pytest.mark.parametrize(
    "keys",
    [
        {"kind": "grid", "widths": [32]},
        {"kind": "tokens", "widths": [32]},
        {"kind": "tokens", "widths": [], "tokens": [1e5]},
        {"kind": "tokens", "widths": [32, 32], "tokens": [1e5]},
        {"kind": "tokens", "widths": [32], "tokens": [1e5], "budgets": [1e9]},
        {"kind": "epochs", "widths": [32], "epochs": [1.0]},
        {"kind": "tokens", "widths": [32], "tokens": [1e5], "tokens_per_parameter": [1.0]},
        {"kind": "tokens", "widths": [32], "tokns": [1e5]},
        {"kind": "tokens", "widths": [-32], "tokens": [1e5]},
        {"kind": "tokens", "widths": [32], "tokens": [1e5], "learning_rates": [0.0]},
        {"kind": "tokens", "widths": [32], "tokens": [1e5], "seeds": [-1]},
        {"kind": "isoflop", "widths": [32], "budgets": [float("nan")]},
    ],
)
def test_wrong_grids_are_refused(keys):
    with pytest.raises(UserError):
        of(**keys)


def test_a_name_is_of_what_the_run_is():
    one = {"model": {"width": 32}, "steps": 100, "rates": [1e-3]}
    again = {"rates": [1e-3], "steps": 100, "model": {"width": 32}}
    assert run_id(one) == run_id(again)
    assert len(run_id(one)) == 12
    assert run_id(one | {"steps": 101}) != run_id(one)
    assert run_id(one | {"rates": [1.1e-3]}) != run_id(one)
    # Fixed for ever: a new name would train a study again.
    assert run_id({"a": 1, "b": [0.5, "x"]}) == "d9dda6d0c61c"


def test_order_is_small_and_short_first():
    found = of(kind="tokens", widths=[96, 32], tokens=[1e6, 1e5])
    sizes = [c.tokens * FLOPS[c.width] for c in found]
    assert sizes == sorted(sizes)
    assert dataclasses.astuple(found[0])[0] == 32

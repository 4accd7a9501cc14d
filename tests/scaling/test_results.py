"""A whole table: laws of one modality, what two do together, systems beside each other."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from tests.long import long
from tests.scaling.synthetic import BUDGETS, TRUTH, isoflop, loss
from tests.scaling.test_cost import runs
from unijax.core.errors import UserError
from unijax.scaling import page, table
from unijax.scaling.bootstrap import bootstrap
from unijax.scaling.coverage import parity_coverage
from unijax.scaling.fit import fit
from unijax.scaling.laws import Chinchilla
from unijax.scaling.objective import Objective
from unijax.scaling.parity import FARTHEST, System, parity_of_systems
from unijax.scaling.points import Points
from unijax.scaling.results import analyse_table
from unijax.scaling.study import FitConfig

TEXT, CODE = TRUTH, {"E": 2.5, "A": 90.0, "B": 400.0, "alpha": 0.25, "beta": 0.28}
BOTH = {"C": 0.12, "A": 40.0, "B": 300.0, "alpha": 0.3, "beta": 0.4}
CONFIG = FitConfig(draws=30, hold_out=0, bimodal=("text", "code"))


def row(name: str, system: str, n: float, on_text: float, on_code: float, **losses) -> dict:
    counts = {"non_embedding_parameters": n, "tokens": on_text + on_code}
    seen = {"tokens_text": on_text, "tokens_code": on_code}
    told = {f"loss_{k}_nats_per_token": losses.get(k) for k in ("text", "code")}
    return {"run_id": name, "system": system, **counts, **seen, **told}


def mixed_rows() -> list[dict]:
    """Runs on text, on codes and on both, whose mean loss follows a known law."""
    found = []
    for i, n in enumerate(np.geomspace(1e7, 3e9, 5)):
        for j, d in enumerate(np.geomspace(4e8, 1e11, 5)):
            t, c = loss(n, d, TEXT), loss(n, d, CODE)
            found.append(row(f"t{i}{j}", "s", n, d, 0.0, text=t))
            found.append(row(f"c{i}{j}", "s", n, 0.0, d, code=c))
            more = BOTH["A"] / n ** BOTH["alpha"] + BOTH["B"] / (2 * d) ** BOTH["beta"] - BOTH["C"]
            found.append(row(f"b{i}{j}", "s", n, d, d, text=t + more, code=c + more))
    return found


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    path = tmp_path_factory.mktemp("mixture") / "runs.csv"
    table.write(path, mixed_rows())
    return analyse_table(table.read(path), CONFIG)


def test_a_table_of_two_modalities_gives_both_laws_and_what_they_do_together(mixture):
    for analysis, truth in zip(mixture.analyses, (TEXT, CODE), strict=True):
        assert analysis.fitted.constants() == pytest.approx(truth, rel=1e-3)
        assert len(analysis.points) == 25
    found = mixture.interactions["s"]
    assert found.fitted.constants() == pytest.approx(BOTH, rel=0.02)
    for value, low, high in found.constants(0.95).values():
        assert low <= value * 1.01
        assert high >= value * 0.99
    gain, by_law, low, high = found.gain(0.95)
    np.testing.assert_allclose(gain, by_law, atol=1e-3)
    assert (low <= by_law + 1e-3).all()
    assert (by_law - 1e-3 <= high).all()
    assert 0 < (gain < 0).sum() < len(gain)  # the competition barrier is among the runs


def test_the_page_shows_what_two_modalities_do_together(mixture, tmp_path):
    doubtful = dataclasses.replace(mixture.interactions["s"], limits=["few runs"], failed=["b7"])
    # The laws of one modality have their sections in test_page.py.
    shown = dataclasses.replace(mixture, analyses=[], interactions={"s": doubtful})
    text = page.write(tmp_path, "T", shown, CONFIG).read_text()
    assert "<li>few runs</li>" in text
    assert "Runs that failed were left out: b7." in text
    assert "s · text and code, together" in text
    assert "25 mixed runs" in text
    assert page.number(mixture.interactions["s"].fitted.constants()["C"]) in text
    assert (tmp_path / "figures" / "s_text_code_together.svg").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: {k: v for k, v in r.items() if k != "tokens_code"}, "no column tokens_code"),
        (lambda r: r | {"tokens_code": max(r["tokens_code"], 1e3)}, "0 to fit"),
    ],
)
def test_a_table_without_what_the_bimodal_law_needs_is_refused(change, message, tmp_path):
    table.write(tmp_path / "t.csv", [change(r) for r in mixed_rows()])
    with pytest.raises(UserError, match=message):
        analyse_table(table.read(tmp_path / "t.csv"), CONFIG)


@pytest.mark.parametrize(
    ("value", "said"),
    [("twelve", "column tokens_code, line 1: found 'twelve'"), (None, "found nothing, .* in t00")],
)
def test_words_in_what_a_mixture_saw_are_refused(value, said, tmp_path):
    # It ended in a TypeError.
    table.write(tmp_path / "t.parquet", [r | {"tokens_code": value} for r in mixed_rows()])
    with pytest.raises(UserError, match=said):
        analyse_table(table.read(tmp_path / "t.parquet"), CONFIG)


def spoiled(tmp_path, name: str, drop_failed: bool = False, **values):
    """The analysis of the mixture with one row changed."""
    found = [r | values if r["run_id"] == name else r for r in mixed_rows()]
    table.write(tmp_path / "t.csv", [{"state": "done"} | r for r in found])
    config = dataclasses.replace(CONFIG, drop_failed=drop_failed)
    return analyse_table(table.read(tmp_path / "t.csv"), config)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("b22", {"state": "diverged"}, "b22"),
        ("b22", {"loss_code_nats_per_token": None}, "b22"),
        ("b22", {"tokens_code": None}, "nothing, or no part of the tokens, in b22"),
        ("b22", {"tokens_code": 7.0}, "column tokens_code: .* b22"),
        ("b22", {"tokens_code": 1e15}, "no part of the tokens, in b22"),
        ("t22", {"tokens_code": None, "state": "unfinished"}, "t22"),
        ("b22", {"run_id": "t00"}, "ids that stand twice: t00"),
    ],
)
def test_a_spoiled_run_of_a_mixture_is_not_left_out_or_fitted_in_silence(
    name, values, message, tmp_path
):
    with pytest.raises(UserError, match=message):
        spoiled(tmp_path, name, **values)


def test_a_mixed_run_that_is_far_worse_than_the_law_is_doubted_by_name(tmp_path):
    found = spoiled(tmp_path, "b22", loss_code_nats_per_token=20.0).interactions["s"]
    assert any(d.text.startswith("up to") and d.runs == ("b22",) for d in found.doubts)


def test_failed_mixed_runs_are_left_out_when_asked_and_named(tmp_path):
    found = spoiled(tmp_path, "b22", drop_failed=True, state="diverged").interactions["s"]
    assert found.failed == ["b22"]
    assert len(found.ids) == 24
    assert "b22" not in found.ids


def test_doubts_of_an_interaction_are_told(tmp_path):
    few = [r for r in mixed_rows() if r["run_id"][0] != "b" or r["run_id"][1] in "14"]
    table.write(tmp_path / "t.csv", few)
    found = analyse_table(table.read(tmp_path / "t.csv"), CONFIG)
    assert any("10 runs for 5 constants" in line for line in found.interactions["s"].limits)


def test_a_table_without_mixed_runs_is_refused(tmp_path):
    table.write(tmp_path / "t.csv", [r for r in mixed_rows() if r["run_id"][0] != "b"])
    with pytest.raises(UserError, match=r"runs on both of .* found 0 to fit"):
        analyse_table(table.read(tmp_path / "t.csv"), CONFIG)


def two_systems(factor: float) -> list[dict]:
    """The second needs `factor` times the tokens for the same loss."""
    found = []
    for i, n in enumerate(np.geomspace(1e7, 3e9, 6)):
        for j, d in enumerate(np.geomspace(1e9, 1e11, 4)):
            for name, more in (("fast", 1.0), ("slow", factor)):
                known = loss(n, d)
                found.append(row(f"{name}{i}{j}", name, n, more * d, 0.0, text=known))
    return found


def test_parity_of_systems_is_the_factor_between_them(tmp_path):
    table.write(tmp_path / "t.csv", two_systems(3.0))
    config = FitConfig(draws=30, hold_out=0, losses=("text",), reference="slow")
    found = analyse_table(table.read(tmp_path / "t.csv"), config)
    ((key, ratio),) = found.parities.items()
    assert key == ("fast", "text")
    assert ratio.ratio == pytest.approx(1 / 3, rel=1e-3)
    assert ratio.beyond == 1.0
    shown = dataclasses.replace(found, analyses=[])
    text = page.write(tmp_path, "T", shown, config).read_text()
    assert "Parity FLOP ratios" in text
    assert "<td>0.333</td>" in text
    assert "Each of 30 draws" in text
    with pytest.raises(UserError, match="found 'other'"):
        analyse_table(table.read(tmp_path / "t.csv"), FitConfig(reference="other"))


def system(points: Points) -> System:
    fitted = fit(Chinchilla.of(points), points, Objective())
    return System(fitted, bootstrap(fitted, points, 30, 0), points)


def with_noise(seed: int) -> tuple[Points, Points]:
    rng = np.random.default_rng(seed)
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 3e9, 6), np.geomspace(1e9, 1e11, 4)))
    found = (Points(n, f * d, loss(n, d) * np.exp(rng.normal(0, 0.005, 24))) for f in (1.0, 3.0))
    return tuple(found)


@long
def test_intervals_of_parity_hold_it_under_noise():
    # `bench/scaling_coverage.py --parity` does hundreds of studies.
    share, width = parity_coverage(with_noise, 1 / 3, studies=16, draws=60, level=0.95)
    assert share >= stats.binom.ppf(0.001, 16, 0.95) / 16
    assert width < 4  # the truth is not held by saying nothing


def test_parity_where_small_models_cost_more():
    # Twice the FLOPs for the same runs: the same law, and a frontier that is a curve.
    points = runs()
    twice = dataclasses.replace(points, flops=2 * points.compute)
    found = parity_of_systems(system(points), system(twice), 0.95, 0)
    assert found.ratio == pytest.approx(0.5, rel=1e-3)
    assert found.beyond == 1.0


def test_a_loss_that_a_system_never_reaches_is_not_a_number_out_of_nowhere():
    points, above = isoflop(BUDGETS), dict(TRUTH, E=2.5)
    found = parity_of_systems(system(isoflop(BUDGETS, c=above)), system(points), 0.95, 0)
    assert found.ratio == pytest.approx(FARTHEST)
    assert found.beyond == pytest.approx(FARTHEST)


def test_one_modality_is_not_two():
    with pytest.raises(UserError, match="two modalities"):
        FitConfig(bimodal=("text", "text"))

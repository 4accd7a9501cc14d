"""The micro study's own arithmetic and files, on known tables; `make study-test` runs it."""

import re

import numpy as np
import pytest

from bench import study
from tests.long import MARKS
from tests.scaling.test_table import rows
from unijax.core.record import build
from unijax.main import config as config_lib
from unijax.main import sweep
from unijax.main.run import resolve
from unijax.scaling import table, validate
from unijax.scaling.grid import GridConfig
from unijax.scaling.study import FitConfig

CONFIGS = [
    *(f"configs/scaling_{name}.py{arg}" for name in ("micro", "epochs") for arg in ("", ":small")),
    *(f"configs/scaling_rate.py:{arg}{s}" for arg in ("mup", "standard") for s in ("", "_small")),
    *(f"configs/scaling_together.py:{arg}{s}"
      for arg in ("together", "understanding", "generation") for s in ("", "_small")),
]  # fmt: skip


@pytest.mark.parametrize("spec", CONFIGS)
def test_sweep_files_are_whole(spec):
    run = resolve(config_lib.load(spec))
    grid = build(GridConfig, config_lib.load(spec, "get_sweep"), "sweep")
    assert run.cache_frozen
    assert run.validation.batches
    assert grid.mup_width in (0, 32)


def test_the_small_ladder_has_runs_enough_to_fit():
    # Lengths are rounded to whole periods, and runs that become the same are one.
    assert len(sweep.plan("configs/scaling_micro.py:small", [])[0]) >= validate.FEWEST


def test_what_is_held_out_is_the_same_for_runs_together_and_apart():
    arms = {
        arm: resolve(config_lib.load(f"configs/scaling_together.py:{arm}")) for arm in study.ARMS
    }
    whole = arms["together"]
    for arm, run in arms.items():
        assert run.validation.groups == whole.validation.groups
        assert run.validation.batches * run.data.rows == 128
        assert run.data.rows == len(run.data.groups)
        kept = {g.name: g for g in run.data.groups}
        assert all(kept[g.name] == g for g in whole.data.groups if g.name in kept), arm


def seeds(tmp_path, loss: str, values: list[float]) -> table.Runs:
    """In a shuffled order."""
    order = np.random.default_rng(0).permutation(len(values))
    found = [
        {"run_id": f"r{i}", "system": "janus", "parameters": 10_000, "tokens": 5e5, "seed": int(i),
         "state": "done", f"loss_{loss}_nats_per_token": values[i]}
        for i in order
    ]  # fmt: skip
    table.write(tmp_path / f"{loss}.csv", found)
    return table.read(tmp_path / f"{loss}.csv")


def test_differences_are_paired_by_seed(tmp_path):
    apart = [3.0, 3.1, 3.2, 3.3, 3.4]
    both = [x - 0.1 - 0.001 * i for i, x in enumerate(apart)]
    mean, low, high = study.difference(
        seeds(tmp_path, "code", both), seeds(tmp_path, "code", apart), "code"
    )
    assert mean == pytest.approx(-0.102)
    # By hand: the deviation of 0..4 thousandths, over sqrt(5), times t(0.975, 4) = 2.776.
    half = 2.776 * np.std(np.arange(5) / 1000, ddof=1) / np.sqrt(5)
    assert (low, high) == pytest.approx((mean - half, mean + half), rel=1e-3)


def rates(path, best: dict[int, float]) -> table.Runs:
    """Losses of 3 at the best rate of each width, and 0.5 more for each factor of two from it."""
    found = []
    for width, least in best.items():
        for rate in (1e-3, 2e-3, 4e-3):
            loss = 3 + 0.5 * abs(np.log2(rate / least))
            row = {"run_id": f"w{width}_{rate}", "size": f"w{width}", "learning_rate": rate}
            row |= {f"loss_{k}_nats_per_token": loss for k in study.LOSSES}
            found.append(row | {"parameters": 1e4, "tokens": 5e5, "state": "done"})
    table.write(path, found)
    return table.read(path)


def test_the_rate_part_says_where_each_width_is_best(tmp_path, monkeypatch, capsys):
    tables = {
        "configs/scaling_rate.py:mup": rates(tmp_path / "m.csv", {32: 2e-3, 128: 2e-3}),
        "configs/scaling_rate.py:standard": rates(tmp_path / "s.csv", {128: 1e-3}),
    }
    monkeypatch.setattr(study, "run", lambda config, directory: tables[config])
    assert study.best_rates(next(iter(tables.values())), "code") == {"w32": 2e-3, "w128": 2e-3}
    (tmp_path / "out").mkdir()
    study.rate(tmp_path, tmp_path / "out", small=False)
    said = capsys.readouterr().out
    assert "| maximal update | image codes | 128 | 0.002 | 0.000 |" in said
    # Width 32 stands in the first sweep alone, and the second is compared with it.
    assert "| standard | image codes | 32 | 0.002 | 0.000 |" in said
    assert "| standard | image codes | 128 | 0.001 | 0.500 |" in said
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"rate.svg", "rate_maximal_update.csv", "rate_standard.csv"}


def test_the_epochs_part_stands_beside_the_run_of_its_tokens(tmp_path, monkeypatch, capsys):
    ladder = [
        {"run_id": f"r{i}", "size": size, "parameters": 1e4, "tokens": tokens, "epochs": 1.0,
         "state": "done"} | {f"loss_{k}_nats_per_token": loss for k in study.LOSSES}
        for i, (size, tokens, loss) in enumerate(
            [("w32", 6.4e6, 1.0), ("w48", 2e6, 3.0), ("w48", 6.3e6, 2.0), ("w48", 2e7, 1.5)]
        )
    ]  # fmt: skip
    again = ladder[2] | {"tokens": 6.4e6, "epochs": 3.9}
    again |= {f"loss_{k}_nats_per_token": 2.25 for k in study.LOSSES}
    for name, found in (("micro", ladder), ("epochs", [again])):
        table.write(tmp_path / f"{name}.csv", found)
    monkeypatch.setattr(
        study, "run", lambda config, _: table.read(tmp_path / f"{config[16:].split('.')[0]}.csv")
    )
    study.epochs(tmp_path, tmp_path, small=False)
    said = capsys.readouterr().out
    assert "| held-out loss | 1.00 passes | 3.90 passes | difference |" in said
    assert said.count("| 2.0000 | 2.2500 | +0.2500 |") == 3


@pytest.mark.parametrize(
    ("small", "repeats"), [(True, False), pytest.param(False, True, marks=MARKS)]
)
def test_the_ladder_part_writes_table_laws_and_figures(small, repeats, tmp_path, monkeypatch):
    def runs(config, directory):
        assert config == "configs/scaling_micro.py" + ":small" * small
        directory.mkdir(parents=True, exist_ok=True)
        found = rows()
        if repeats:
            for i, row in enumerate(found):
                row.pop("loss_text_nats_per_token")  # one loss says it, in half the time
                row["epochs"] = 1.0 if i < len(found) - 2 else 2.0
                row["unique_tokens"] = row["tokens"] / row["epochs"]
        table.write(directory / "runs.parquet", found)
        return table.read(directory / "runs.parquet")

    monkeypatch.setattr(study, "run", runs)
    (tmp_path / "out").mkdir()
    # The draws of the real study take long and are tested elsewhere.
    monkeypatch.setattr(study, "FitConfig", lambda **choices: FitConfig(draws=20, hold_out=0))
    study.ladder(tmp_path, tmp_path / "out", small)
    names = {p.name for p in (tmp_path / "out").iterdir()}
    losses = ["code"] if repeats else ["text", "code"]
    figures = ["loss_against_compute"] if small else ["loss_against_compute", "isoflop_valleys"]
    drawn = {f"janus_{loss}_{figure}.svg" for loss in losses for figure in figures}
    assert names == {"ladder.csv"} | drawn
    assert re.search("Micro Janus", (tmp_path / "fit" / "report.html").read_text())
    # Runs that saw data again: the term for that beside the law of the plain count.
    assert (tmp_path / "fit_repeated" / "report.html").exists() == repeats

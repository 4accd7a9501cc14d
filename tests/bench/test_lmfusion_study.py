"""LMFusion's micro study: its configs, and its own arithmetic on known tables."""

import csv
import itertools

import numpy as np
import pytest

from bench import lmfusion_study as study
from tests.long import long
from unijax.core.record import build
from unijax.main import config as config_lib
from unijax.main import sweep
from unijax.main.gather import trained
from unijax.main.run import make_system, resolve
from unijax.scaling import table
from unijax.scaling.grid import GridConfig

ARMS = list(itertools.product(study.SEPARATIONS, study.RATIOS))


@long
def test_lengths_of_one_compute():
    """By the steps that a sweep plans, a frozen text side costs as much as one that learns."""
    compute = {}
    for separation, ratio in [*itertools.product(study.SEPARATIONS, ("0",)), ("deep", "1")]:
        planned = sweep.plan(f"{study.CONFIG}:{separation},{ratio}", [])[0]
        run = max((p.run for p in planned), key=lambda r: r.stage.steps)
        flops = sweep._step_flops(run, sweep._measure(run)[1])
        compute[separation, ratio] = flops * run.stage.steps
    learns = compute.pop(("deep", "1"))
    assert all(x == pytest.approx(learns, rel=0.01) for x in compute.values()), compute


def learning(run, prefix: str) -> set[str]:
    """Names of what trains under a path, layers apart."""
    return {
        path.removeprefix(prefix).split("/")[0]
        for path, rule in trained(run).rules.items()
        if path.startswith(prefix) and not rule.frozen
    }


@pytest.mark.parametrize("ending", ["", "_small"])
def test_sweep_files_are_whole(ending):
    base = resolve(config_lib.load(f"{study.CONFIG}:base{ending}"))
    held_out = {g.name: g for g in base.validation.groups}
    for separation, ratio in ARMS:
        spec = f"{study.CONFIG}:{separation},{ratio}{ending}"
        run, grid = resolve(config_lib.load(spec)), config_lib.load(spec, "get_sweep")
        assert build(GridConfig, grid, "sweep").ladder == "transfusion_micro"
        assert {g.name: g for g in run.validation.groups}["text"] == held_out["text"]
        assert run.model.text == base.model.text
        assert make_system(run).losses.keys() >= {"text", "noise"}


@pytest.mark.parametrize(("separation", "ratio"), ARMS)
def test_an_arm_trains_what_its_name_says(separation, ratio):
    run = resolve(config_lib.load(f"{study.CONFIG}:{separation},{ratio}"))
    parts = {
        "none": set(),
        "shallow": {"mlp", "post_attention_layernorm"},
        "deep": {"mlp", "post_attention_layernorm", "self_attn", "input_layernorm"},
    }[separation]
    assert learning(run, "image_twin/layers/") == parts
    assert bool(learning(run, "language_model/")) == (ratio != "0")
    assert learning(run, "image_layers/")
    assert not learning(run, "autoencoder/")
    multiples = {
        rule.lr_multiple
        for path, rule in trained(run).rules.items()
        if path.startswith("language_model/") and not rule.frozen
    }
    assert multiples <= {float(ratio)}


def runs(tmp_path, text: list[float], noise: list[float], longer: bool = False) -> table.Runs:
    """In a shuffled order of seeds."""
    found = [
        {"run_id": f"r{i}{'x' * longer}", "system": "lmfusion", "parameters": 1e4,
         "tokens": 7e5 if longer else 5e5, "seed": i, "state": "done",
         "loss_text_nats_per_token": text[i], "loss_noise_nats_per_token": noise[i]}
        for i in np.random.default_rng(1).permutation(len(text)).tolist()
    ]  # fmt: skip
    table.write(tmp_path / "runs.csv", found)
    return table.read(tmp_path / "runs.csv")


def test_the_table_pairs_seeds_and_the_file_names_arms(tmp_path, capsys):
    noise = [0.5, 0.6, 0.7]
    arms = {}
    for i, arm in enumerate(ARMS):
        short = runs(tmp_path, [4.0 + i] * 3, [x + 0.1 * i for x in noise])
        longer = runs(tmp_path, [4.0 + i] * 3, [x + 0.05 * i for x in noise], longer=True)
        arms[arm] = (short, longer if arm[1] == "0" else short)
    study.tell(arms)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(ARMS)
    # The paper's choice is the seventh arm, the last one the ninth.
    chosen = "| deep | 0 | 10.0000 ± 0.0000 | +0.0000 | 1.2000 ± 0.1000 |  | 0.9000 ± 0.1000 |  |"
    assert chosen in lines
    last = "| deep | 1 | 12.0000 ± 0.0000 | +2.0000 | 1.4000 ± 0.1000 | +0.2000 [+0.2000, +0.2000] "
    assert lines[-1] == last + "| 1.4000 ± 0.1000 | +0.5000 [+0.5000, +0.5000] |"
    study.keep(arms, tmp_path / "all.csv")
    with open(tmp_path / "all.csv") as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 3 * (len(ARMS) + len(study.SEPARATIONS))
    assert {(r["separation"], float(r["ratio"])) for r in rows} == {(s, float(r)) for s, r in ARMS}
    study.draw(arms, tmp_path / "all.svg")
    assert "<svg" in (tmp_path / "all.svg").read_text()

"""The micro studies of encoders: their configs, and their tables of known runs."""

import csv

import pytest

from bench import encoder_study as study
from unijax.core.record import build
from unijax.main import config as config_lib
from unijax.main.run import resolve
from unijax.scaling import table
from unijax.scaling.grid import GridConfig

ABLATIONS = [f"configs/janus_ablations.py:{letter},micro" for letter in study.ARMS]
ENCODERS = [f"configs/encoder_study.py:{name}" for name in study.ENCODERS]


@pytest.mark.parametrize("spec", ABLATIONS + ENCODERS)
def test_sweep_files_are_whole(spec):
    whole = resolve(config_lib.load("configs/scaling_together.py:together"))
    for ending in ("", "_small"):
        run = resolve(config_lib.load(spec + ending))
        grid = build(GridConfig, config_lib.load(spec + ending, "get_sweep"), "sweep")
        assert run.cache_frozen
        assert grid.ladder == "micro"
    run = resolve(config_lib.load(spec))
    assert run.validation.groups == whole.validation.groups
    assert run.validation.batches * run.data.rows == 128
    assert run.data.rows == len(run.data.groups)
    assert run.stage.rules[0].pattern == "vision_model/"
    assert run.stage.rules[0].frozen


def test_every_arm_is_the_one_that_its_letter_names():
    runs = {x: resolve(config_lib.load(f"configs/janus_ablations.py:{x},micro")) for x in "ABCDEF"}
    kinds = {x: (type(r.model.vision).__name__, r.model.one_encoder) for x, r in runs.items()}
    assert {x for x, (kind, _) in kinds.items() if kind == "CodesConfig"} == set("ABC")
    assert {x for x, (_, one) in kinds.items() if one} == set("B")
    trained = {x: tuple(g.name for g in r.data.groups) for x, r in runs.items()}
    both, und, gen = ("und", "gen"), ("und",), ("gen",)
    assert trained == {"A": both, "B": both, "C": und, "D": both, "E": und, "F": gen}


def runs(tmp_path, size: str, und: list[float], code: list[float]) -> list[dict]:
    return [
        {"run_id": f"{size}{i}", "system": "janus", "size": size, "parameters": 1e4, "tokens": 5e5,
         "seed": i, "state": "done", "loss_understanding_nats_per_token": a,
         "loss_code_nats_per_token": b}
        for i, (a, b) in enumerate(zip(und, code))
    ]  # fmt: skip


def test_tables_pair_seeds_and_leave_out_what_an_arm_does_not_learn(tmp_path, monkeypatch, capsys):
    def run(spec, directory, overrides=()):
        letter = directory.name
        if letter in study.ARMS:
            shift = "ABCDEF".index(letter) / 10
            found = runs(tmp_path, "w64", [1 + shift, 2 + shift], [3 + shift, 4 + shift])
        else:
            shift = study.ENCODERS.index(letter) / 10
            found = [
                row
                for width in ("w128", "w32")
                for row in runs(tmp_path, width, [1 + shift, 1.5 + shift], [0.0, 0.0])
            ]
        table.write(tmp_path / "runs.csv", found)
        return table.read(tmp_path / "runs.csv")

    monkeypatch.setattr(study, "run", run)
    study.ablations(tmp_path, tmp_path, small=True)
    lines = capsys.readouterr().out.splitlines()
    zero = "[-0.3000, -0.3000]"
    assert (
        f"| A | VQ for both | 1.5000 ± 0.7071 | -0.3000 {zero} | 3.5000 ± 0.7071 | -0.3000 {zero} |"
        in lines
    )
    assert "| D | Janus | 1.8000 ± 0.7071 |  | 3.8000 ± 0.7071 |  |" in lines
    assert lines[-1].startswith("| F | VQ, generation alone |  |  | 4.0000")
    study.encoders(tmp_path, tmp_path, small=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| encoder | width 32 | less siglip | width 128 | less siglip |"
    apart = "1.3500 ± 0.3536 | +0.1000 [+0.1000, +0.1000]"
    assert f"| eva_clip | {apart} | {apart} |" in lines
    with open(tmp_path / "encoders.csv") as f:
        kept = list(csv.DictReader(f))
    assert len(kept) == len(study.ENCODERS) * 4
    assert {row["encoder"] for row in kept} == set(study.ENCODERS)
    assert "<svg" in (tmp_path / "encoders.svg").read_text()

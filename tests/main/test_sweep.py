"""`unijax sweep` and `gather`: runs of the smallest models, alone, on a trunk, and in an array."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from tests.goldens import check_golden
from tests.long import long
from tests.main import tiny
from tests.main.test_cli import fails
from tests.main.test_train import lines
from unijax.core import tree
from unijax.core.batch import Kind
from unijax.core.errors import UserError
from unijax.core.record import to_json
from unijax.data.loader import Loader
from unijax.data.tokenizer import load as load_tokenizer
from unijax.launch.spec import expand
from unijax.main import sweep
from unijax.main.cli import main, parse
from unijax.main.launching import build_launch
from unijax.main.run import make_system, resolve
from unijax.main.train import train
from unijax.main.trunk import decay_start, train_on_trunk, with_length
from unijax.scaling import table
from unijax.scaling.grid import run_id
from unijax.train.checkpoint import read_params
from unijax.train.guard import NotFinite
from unijax.train.schedule import schedule
from unijax.train.stage import OptimizerConfig
from unijax.train.state import merge

SWEEP = str(pathlib.Path(__file__).with_name("tiny_sweep.py"))


def test_a_length_keeps_whole_periods_and_the_share_of_decay():
    run = resolve(tiny.get_config(), ["loop.log_every=5", "loop.eval_every=0",
                                      "stage.optimizers.main.schedule=constant_decay"])  # fmt: skip
    run = with_length(run, 43.0)
    optimizer = run.stage.optimizers["main"]
    assert run.stage.steps == 45
    assert decay_start(optimizer, 45) == 35  # 0.2 of 40 is 8, a whole number of periods is 10
    rate = schedule(optimizer, 45)
    assert float(rate(35)) == pytest.approx(optimizer.learning_rate)
    assert float(rate(36)) < optimizer.learning_rate


def test_no_step_at_full_rate_is_refused():
    run = resolve(tiny.get_config())
    with pytest.raises(UserError, match="fewer than the steps of the shortest run"):
        with_length(run, 4.0)


@pytest.mark.parametrize("steps", [20, 31, 100])
@pytest.mark.parametrize("warmup", [0, 7])
def test_decay_starts_where_the_schedule_leaves_its_peak(steps, warmup):
    config = OptimizerConfig(1e-3, "constant_decay", warmup, 0.3)
    rate = schedule(config, steps)
    rates = np.array([float(rate(s)) for s in range(steps)])
    start = decay_start(config, steps)
    np.testing.assert_allclose(rates[warmup : start + 1], 1e-3, rtol=1e-6)
    assert (rates[start + 1 :] < 1e-3 * (1 - 1e-6)).all()


def test_a_sweep_of_widths_refuses_an_optimizer_that_mup_has_no_table_of(tmp_path):
    file = tmp_path / "sweep.py"
    file.write_text(
        "from tests.main import tiny_sweep\n"
        "get_config = tiny_sweep.get_config\n"
        "def get_sweep():\n"
        "    grid = tiny_sweep.get_sweep()\n"
        "    grid.mup_width = 32\n"
        "    return grid\n"
    )
    with pytest.raises(UserError, match=r"mup_base.*main\.kind='muon'.*mup_width"):
        sweep.plan(str(file), ["stage.optimizers.main.kind=muon"])


@pytest.fixture(scope="module")
def plan():
    return sweep.plan(SWEEP, [])


@pytest.fixture(scope="module")
def planned(plan):
    return plan[0]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sweep")
    sweep.sweep(SWEEP, directory, [], None)
    return directory


@long
def test_a_run_on_a_trunk_is_the_run_alone_to_the_bit(swept, planned, tmp_path):
    (short,) = (p for p in planned if sweep.longest(planned, p) is not p)
    alone = train(short.run, tmp_path)
    shared = tree.flatten(read_params(swept / "runs" / short.id))
    for path, x in tree.flatten(jax.device_get(merge(alone.params, alone.frozen))).items():
        assert x.tobytes() == np.asarray(shared.pop(path)).tobytes(), path
    assert not shared
    assert lines(swept / "runs" / short.id) == lines(tmp_path)


def test_runs_share_a_constant_part_alone(tmp_path):
    run = resolve(tiny.get_config())
    with pytest.raises(UserError, match="'constant_decay'"):
        train_on_trunk(run, tmp_path / "x", run, tmp_path / "long")


def test_a_sweep_gives_a_row_for_each_run(swept, planned):
    runs = table.read(swept / "runs.parquet")
    assert len(runs) == 3
    assert set(runs.losses) == {"text", "understanding", "code"}
    assert set(runs["state"]) == {"done"}
    for name in runs.losses:
        assert np.isfinite(runs.loss(name)).all()
    assert sorted(runs["run_id"]) == sorted(p.id for p in planned)
    for p in planned:
        (row,) = np.flatnonzero(runs["run_id"] == p.id)
        assert p.id.endswith(run_id(sweep.described(p.run)))
        counts = p.run.model.text.count_parameters()
        assert runs["non_embedding_parameters"][row] == counts["layers"]
        # What was planned from a few batches is what was seen, within what packing varies.
        assert runs["tokens"][row] == pytest.approx(p.cell.tokens, rel=0.3)
        assert runs["training_flops"][row] > 6 * counts["layers"] * runs["tokens"][row]


def test_what_names_a_run_golden(planned):
    described = json.dumps(sweep.described(planned[0].run), indent=1, sort_keys=True)
    check_golden("sweep_run.txt", f"{planned[0].id}\n{described}")


def test_passes_of_the_table_are_what_the_runs_saw(swept, planned):
    runs = table.read(swept / "runs.parquet")
    for p in planned:
        first = every = 0
        layout = make_system(p.run).layout
        loader = Loader(p.run.data, layout, load_tokenizer(p.run.tokenizer))
        for _ in range(p.run.stage.steps):
            uids = (batch := next(loader)).uid[batch.kind != Kind.PAD]
            every += len(uids)
            early = [uid for uid, name in loader.documents.items() if name.split("/")[1] == "0"]
            first += np.isin(uids, early).sum()
        loader.close()
        (row,) = np.flatnonzero(runs["run_id"] == p.id)
        assert first < every
        assert runs["tokens"][row] == every
        assert runs["unique_tokens"][row] == first
        assert runs["epochs"][row] == pytest.approx(every / first)


EPOCHS = """from tests.main.tiny_sweep import ConfigDict, get_config

def get_sweep():
    grid = {"kind": "epochs", "widths": (32,), "epochs": (1.0, 4.0), "unique_tokens": UNIQUE}
    return ConfigDict(grid)
"""


def test_an_epochs_grid_fits_its_data_or_is_refused(tmp_path):
    file = tmp_path / "epochs.py"
    for unique, different in ((380, "766 tokens 459 are"), (2000, "4,022 tokens 1,149 are")):
        file.write_text(EPOCHS.replace("UNIQUE", str(unique)))
        with pytest.raises(UserError, match=different):
            sweep.plan(str(file), [])
    file.write_text(EPOCHS.replace("UNIQUE", "880"))
    assert [p.cell.tokens for p in sweep.plan(str(file), [])[0]] == [880, 3520]


def test_parameters_of_the_table_are_those_that_train(swept, planned):
    runs = table.read(swept / "runs.parquet")
    for p in planned:
        said = (swept / "runs" / p.id / "parameters.txt").read_text().splitlines()[-1]
        (row,) = np.flatnonzero(runs["run_id"] == p.id)
        assert said.startswith(f"Trained: {int(runs['parameters'][row]):,} of ")


def test_a_repeated_sweep_skips_what_is_done(swept, capsys):
    before = {p: p.stat().st_mtime_ns for p in swept.glob("runs/*/metrics.jsonl")}
    assert main(["sweep", "--config", SWEEP, "--dir", str(swept)]) == 0
    assert capsys.readouterr().out.count("is done") == 3
    assert before == {p: p.stat().st_mtime_ns for p in swept.glob("runs/*/metrics.jsonl")}


def test_unfinished_runs_are_said_in_the_table_and_refused_by_a_fit(swept, tmp_path, capsys):
    copy = tmp_path / "sweep"
    shutil.copytree(swept, copy)
    first = sorted(copy.glob("runs/*/result.json"))[0]
    first.unlink()
    assert main(["gather", str(copy)]) == 0
    assert "2 of 3 runs done" in capsys.readouterr().out
    said = fails(capsys, "fit", str(copy / "runs.parquet"), "--out", str(tmp_path / "fit"))
    assert first.parent.name in said


@pytest.mark.parametrize(
    ("file", "text", "what_to_do"),
    [
        ("runs/a/result.json", "", "Remove it"),
        ("runs/a/result.json", '{"run_id": "a", "sta', "Remove it"),
        ("runs/a/result.json", "[1]", "Remove it"),
        ("runs/a/result.json", '{"run_id": "b", "state": "done"}', "Remove it"),
        ("sweep.json", "", "writes it anew"),
        ("sweep.json", '{"runs": [', "writes it anew"),
        ("sweep.json", '{"runs": [{"run_id": "a"}]}', "writes it anew"),
    ],
)
def test_a_damaged_file_of_a_sweep_is_named(capsys, tmp_path, file, text, what_to_do):
    run = to_json(resolve(tiny.get_config()))
    listed = {"runs": [{"run_id": "a", "run": run, "cell": {"width": 32}}]}
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "sweep.json").write_text(json.dumps(listed))
    assert main(["gather", str(tmp_path)]) == 0
    (tmp_path / file).write_text(text)
    said = fails(capsys, "gather", str(tmp_path))
    assert f"{tmp_path / file}: found a damaged file" in said
    assert what_to_do in said


def test_jobs_of_an_array_do_not_write_one_trunk(plan, planned, tmp_path, monkeypatch):
    trained = []

    def diverges(run, run_dir, *rest, **more):
        trained.append(run_dir.name)
        run_dir.mkdir(parents=True)
        (run_dir / "metrics.jsonl").write_text("")
        raise NotFinite("step 3", "loss nan", "finite values", "Lower the learning rate.")

    monkeypatch.setattr(sweep, "train", diverges)
    monkeypatch.setattr(sweep, "train_on_trunk", None)
    monkeypatch.setattr(sweep, "plan", lambda *args: plan)
    for p in planned:
        sweep.sweep(SWEEP, tmp_path, [], p.id)
    assert trained == [p.id for p in planned]


def test_an_array_of_a_sweep_is_one_job_a_run(planned, tmp_path):
    # As docs/scaling.md says.
    runs = expand(
        build_launch(
            {
                "name": "study", "directory": str(tmp_path), "run_dir_option": "",
                "command": f"unijax sweep --config {SWEEP} --dir {tmp_path}",
                "runs": {p.id: (f"--only={p.id}",) for p in planned},
            }
        )
    )  # fmt: skip
    for p, run in zip(planned, runs, strict=True):
        parsed = parse(run.argv[1:])
        assert (parsed.only, parsed.dir, parsed.overrides) == (p.id, str(tmp_path), [])


@long
def test_runs_that_diverge_are_rows_and_the_others_go_on(tmp_path):
    sweep.sweep(SWEEP, tmp_path, ["stage.optimizers.main.learning_rate=1e18"], None)
    runs = table.read(tmp_path / "runs.parquet")
    assert set(runs["state"]) == {"diverged"}
    assert len(runs) == 3
    assert list(runs["size"]).count("w32") == 2
    # The two that share a trunk ended in one training, and the rows tell the steps of it.
    assert len(list(tmp_path.glob("runs/*/metrics.jsonl"))) == 2
    assert set(runs["steps"][runs["size"] == "w32"]) == {2}
    for name in runs.losses:
        assert np.isnan(runs.loss(name)).all()


def test_list_and_only(planned, capsys, tmp_path):
    assert main(["sweep", "--config", SWEEP, "--dir", str(tmp_path), "--list"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == [p.id for p in planned]
    assert not list(tmp_path.iterdir())
    said = fails(capsys, "sweep", "--config", SWEEP, "--dir", str(tmp_path), "--only", "w32_x")
    assert "one of the 3 ids" in said
    assert not list(tmp_path.iterdir())


def test_a_file_without_a_grid(capsys, tmp_path):
    config = str(pathlib.Path(__file__).with_name("tiny.py"))
    said = fails(capsys, "sweep", "--config", config, "--dir", str(tmp_path))
    assert "no function get_sweep" in said


def test_longest_is_the_trunk(planned):
    for p in planned:
        trunk = sweep.longest(planned, p)
        assert trunk.cell.width == p.cell.width
        assert trunk.run.stage.steps >= p.run.stage.steps
    assert {sweep.longest(planned, p).id for p in planned} == {
        p.id for p in planned if p.cell.tokens > 2000
    }

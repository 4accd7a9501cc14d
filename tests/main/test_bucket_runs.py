"""Runs, data and exports in buckets, through the command line, against servers of two kinds."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.long import LONG, long
from tests.main.test_cli import TINY, fails
from tests.main.test_sweep import SWEEP
from unijax.core import exit_codes, status, storage, tree
from unijax.core.paths import assets_dir
from unijax.main.cli import main
from unijax.scaling import table
from unijax.train.checkpoint import read_params, read_run, whole_steps

STEPS = ("stage.steps=4", "loop.save_every=2", "loop.eval_every=0", "validation.samples=0")


@pytest.fixture(scope="module", autouse=True)
def one_kind_for_every_change(bucket):
    """The other takes two minutes; where the two differ is `tests/core/test_storage.py`."""
    if bucket.startswith("gs:") and not LONG:
        pytest.skip("make test-long")


@pytest.fixture(scope="module")
def run(bucket, tmp_path_factory):
    """Stopped in the middle, and resumed."""
    place = f"{bucket}/runs/tiny"
    words = ["train", "--config", TINY, "--run-dir", place, *STEPS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIJAX_DATA", str(tmp_path_factory.mktemp("cache")))
        assert main([*words, "--stop-at", "2"]) == 0
        assert whole_steps(place) == [2]
        assert main(words) == 0
        yield place


def test_a_run_in_a_bucket_resumes_to_the_bits_of_one_on_a_disk(run, tmp_path):
    assert main(["train", "--config", TINY, "--run-dir", str(tmp_path / "r"), *STEPS]) == 0
    assert sorted(whole_steps(run)) == [2, 4]
    here, there = (tree.flatten(read_params(place)) for place in (tmp_path / "r", run))
    assert here.keys() == there.keys()
    for path, x in here.items():
        np.testing.assert_array_equal(np.asarray(x), np.asarray(there[path]), err_msg=path)
    log = (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()
    put = storage.read(f"{run}/metrics.jsonl").decode().splitlines()
    losses = [[json.loads(line).get("loss") for line in lines] for lines in (log, put)]
    assert losses[0] == losses[1]


def test_what_stands_in_the_bucket_is_a_run_directory(run, tmp_path):
    names = storage.listed(run)
    assert {"metrics.jsonl", "status.json", "parameters.txt"} <= names.keys()
    assert "tokenizer/tokenizer.model" in names
    assert not any(name.startswith("lease/") for name in names)
    (tmp_path / "status.json").write_bytes(storage.read(f"{run}/status.json"))
    now = status.read(tmp_path)
    assert (now.run, now.state, now.step) == ("tiny", "done", 4)


def test_a_half_of_a_checkpoint_is_no_checkpoint_and_is_swept(run):
    storage.put(f"{run}/checkpoints/3/params/_METADATA", b"half")
    assert sorted(whole_steps(run)) == [2, 4]
    assert main(["train", "--config", TINY, "--run-dir", run, *STEPS]) == 0
    assert "checkpoints/3/params/_METADATA" not in storage.listed(run)


def test_a_run_in_a_bucket_draws_answers_and_is_exported(run, bucket, tmp_path, capsys):
    out = f"{bucket}/drawn"
    assert main(["sample", run, "--prompt", "a fox", "-n", "1", "--out", out]) == 0
    assert "grid.png" in storage.listed(out)
    picture = tmp_path / "p.png"
    Image.new("RGB", (16, 16)).save(picture)
    storage.put(f"{bucket}/p.png", picture.read_bytes())
    words = ["--image", f"{bucket}/p.png", "--max-tokens", "4"]
    assert main(["ask", run, "What?", *words]) == 0
    exported = f"{bucket}/exported"
    assert main(["export", run, exported]) == 0
    assert storage.COMPLETE in storage.listed(exported)
    assert exported in capsys.readouterr().out
    assert main(["verify", run, exported]) == 0
    capsys.readouterr()
    assert "exists already" in fails(capsys, "export", run, exported)


def test_many_prompts_are_drawn_into_a_bucket_and_what_is_there_stays(
    run, bucket, tmp_path, capsys
):
    (tmp_path / "prompts.txt").write_text("a fox\na red house\n")
    out = f"{bucket}/many"
    words = ("sample", run, "--prompts", str(tmp_path / "prompts.txt"), "-n", "1", "--out", out)
    assert main(words) == 0
    names = {"000-a-fox-0.png", "001-a-red-house-0.png"}
    assert storage.listed(out).keys() == names | {"prompts.jsonl"}
    storage.remove_one(f"{out}/001-a-red-house-0.png")
    capsys.readouterr()
    assert main(words) == 0
    assert "1 pictures drawn" in capsys.readouterr().out
    assert storage.names_in(out) == names | {"prompts.jsonl"}


def test_runs_in_a_bucket_are_tabled(run, bucket, capsys):
    for place in (run, f"{bucket}/runs"):
        assert main(["status", place]) == 0
        assert "tiny  done" in capsys.readouterr().out
    nowhere = f"{bucket}/nowhere"
    assert f"error: {nowhere}: found no status file of a run" in fails(capsys, "status", nowhere)


def test_data_and_checkpoint_of_a_finetune_may_lie_in_a_bucket(
    run, bucket, tmp_path, monkeypatch, capsys
):
    """Adapters alone stand in the one, on what the other holds. It goes on elsewhere.

    A run could not go on with other data, nor on another machine: paths of copies were recorded.
    """
    for i in range(4):
        path = tmp_path / f"{i}.png"
        Image.new("RGB", (16, 16), (60 * i, 0, 0)).save(path)
        storage.put(f"{bucket}/mine/{i}.png", path.read_bytes())
        storage.put(f"{bucket}/mine/{i}.txt", b"number %d" % i)
    words = [
        "finetune", "--config", "finetune", "--init-from", run, "--data", f"{bucket}/mine",
        "--run-dir", f"{bucket}/runs/tuned", "stage.steps=2", "data.rows=2", "mesh.fsdp=1",
        "loop.eval_every=0", "loop.save_every=0", "loop.log_every=1", "loop.writers=jsonl",
        "--lora", "2",
    ]  # fmt: skip
    assert main(words) == 0
    assert whole_steps(f"{bucket}/runs/tuned") == [2]
    base, tuned = (tree.flatten(read_params(f"{bucket}/runs/{name}")) for name in ("tiny", "tuned"))
    assert base.keys() == tuned.keys()
    changed = {p for p, x in base.items() if not np.array_equal(x, tuned[p])}
    assert changed
    assert all(p.startswith("language_model/layers/") for p in changed)
    said = read_run(f"{bucket}/runs/tuned")["config"]
    paths = {s["path"] for group in said["data"]["groups"] for s in group["sources"]}
    assert (paths, said["tokenizer"]) == ({f"{bucket}/mine"}, f"{run}/tokenizer")
    monkeypatch.setenv("UNIJAX_DATA", str(tmp_path / "another machine"))
    storage.put(f"{bucket}/mine/4.png", path.read_bytes())
    storage.put(f"{bucket}/mine/4.txt", b"one more")
    words[words.index("stage.steps=2")] = "stage.steps=3"
    capsys.readouterr()
    assert main(words) == exit_codes.MISTAKE
    assert "set data.may_change=true" in capsys.readouterr().err
    assert main([*words, "data.may_change=true"]) == 0
    assert str(tmp_path) not in capsys.readouterr().err


OF_BUCKETS = """
from tests.main.tiny import get_config as tiny

def get_config(arg=""):
    config = tiny()
    mine = {{"name": "mine", "task": "generate", "kind": "jsonl", "path": "{bucket}/own/a.jsonl"}}
    with config.unlocked():
        config.tokenizer = "{bucket}/tokenizer"
        config.data.groups = [{{"name": "gen", "ratio": 1.0, "sources": [mine]}}]
        config.validation = {{}}
    return config
"""


def test_a_config_may_name_data_and_tokenizer_in_a_bucket(bucket, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("UNIJAX_DATA", str(tmp_path / "cache"))
    picture = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 0, 0)).save(picture, "PNG")
    seen = "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()
    line = json.dumps({"image": seen, "caption": "red"})
    storage.put(f"{bucket}/own/a.jsonl", f"{line}\n{line}\n".encode())
    for file in (assets_dir() / "tokenizer").glob("*.*"):
        storage.put(f"{bucket}/tokenizer/{file.name}", file.read_bytes())
    config = tmp_path / "config.py"
    config.write_text(OF_BUCKETS.format(bucket=bucket))
    run_dir = f"{bucket}/runs/own"
    words = ("train", "--config", str(config), "--run-dir", run_dir, "stage.steps=1")
    assert main(words) == 0
    said = read_run(run_dir)["config"]
    source = said["data"]["groups"][0]["sources"][0]
    assert (source["path"], said["tokenizer"]) == (f"{bucket}/own/a.jsonl", f"{bucket}/tokenizer")
    assert main(words) == 0  # goes on from what it recorded
    capsys.readouterr()
    words = (*words, f"hardware={bucket}/x")
    assert f"hardware: found '{bucket}/x'" in fails(capsys, *words)


@long
def test_a_sweep_in_a_bucket_gives_the_table_of_one_on_a_disk(bucket, tmp_path, monkeypatch):
    """One run goes on from another's checkpoint there."""
    monkeypatch.setenv("UNIJAX_DATA", str(tmp_path / "cache"))
    for place in (f"{bucket}/study", str(tmp_path / "study")):
        assert main(["sweep", "--config", SWEEP, "--dir", place]) == 0
    storage.remove_one(f"{bucket}/study/runs.parquet")
    assert main(["gather", f"{bucket}/study"]) == 0
    found = table.read(storage.here(f"{bucket}/study/runs.parquet"))
    want = table.read(tmp_path / "study" / "runs.parquet")
    assert len(found) == 3
    assert found.columns.keys() == want.columns.keys()
    for name in found.columns.keys() - {"seconds"}:
        np.testing.assert_array_equal(found[name], want[name], name)


def test_a_table_of_runs_may_lie_in_a_bucket(bucket, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("UNIJAX_DATA", str(tmp_path / "cache"))
    storage.put(f"{bucket}/runs.csv", b"run_id\n")
    place = f"{bucket}/runs.csv"
    assert main(["fit", place, "--out", str(tmp_path)]) == 2
    assert "runs.csv: found columns ['run_id']" in capsys.readouterr().err
    assert "no sweep.json" in fails(capsys, "gather", f"{bucket}/nowhere")


def test_a_mistake_leaves_nothing_in_the_bucket(bucket, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("UNIJAX_DATA", str(tmp_path))
    place = f"{bucket}/runs/wrong"
    words = ("train", "--config", TINY, "--run-dir", place, "data.row_length=18")
    assert "16 tokens an image" in fails(capsys, *words)
    assert storage.listed(place) == {}
    assert not list((tmp_path / "desks").rglob("*.json"))

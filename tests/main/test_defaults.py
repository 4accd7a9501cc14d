"""What a fine-tuning takes from checkpoint, data and device: chosen once, told, and kept."""

import json
import pathlib

import pytest
from PIL import Image

from unijax.data.tokenizer import load as load_tokenizer
from unijax.main import defaults
from unijax.main.advice import RowsTold, idle_slots
from unijax.main.checking import filling
from unijax.main.cli import main
from unijax.main.config import load
from unijax.main.finetune import with_user_data
from unijax.main.run import make_system, resolve
from unijax.train.checkpoint import read_run


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("mine")
    for i in range(12):
        Image.new("RGB", (20, 16), (10 * i, 0, 0)).save(folder / f"{i:02}.png")
        (folder / f"{i:02}.txt").write_text(f"picture number {i}")
    return folder


@pytest.fixture(scope="module")
def run(whole, data):
    tuned = with_user_data(resolve(load("finetune")), str(whole[0]), [data])
    return defaults.chosen(tuned, whole[0] / "none", [])


def test_rows_are_as_long_as_documents_need_and_have_room_for_their_pictures(run):
    """Three slots in rows of 2,048 tokens left three quarters of a row empty."""
    assert run.data.row_length == 256
    layout, tokenizer = make_system(run).layout, load_tokenizer(run.tokenizer)
    assert filling(run.data, layout, tokenizer).padding < 0.1


def test_rows_that_are_half_empty_say_what_to_change(whole, data, capsys):
    words = ["data.row_length=2048", "data.slots.und=3", "data.slots.gen=3"]
    tuned = with_user_data(resolve(load("finetune"), words), str(whole[0]), [data])
    layout, tokenizer = make_system(tuned).layout, load_tokenizer(tuned.tokenizer)
    told = RowsTold(tuned.data, layout, tokenizer)
    for step in (10, 20):
        told.scalars(step, {"data/padding_share": 0.9})
    said = capsys.readouterr().err
    assert said.count("padding") == 1
    assert "Rows end where their image slots do: set data.slots." in said


def test_slots_that_no_source_fills_are_told():
    """Half of every step of a demo's language model was the autoencoder, encoding empty slots."""
    found = {}
    for arm in ("together", "understanding", "generation"):
        run = resolve(load(f"configs/scaling_together.py:{arm}"))
        found[arm] = idle_slots(run.data, (), make_system(run).layout)
        assert idle_slots(run.data, run.validation.sources, make_system(run).layout) == {}
    assert found == {"together": {}, "understanding": {"gen": 6}, "generation": {"und": 6}}


@pytest.mark.parametrize("spec", ["lmfusion_demo.py", "lmfusion_study.py:base"])
def test_a_language_model_of_texts_has_no_slots(spec):
    config = load(f"configs/{spec}")
    run = resolve(config.before.base if "before" in config and config.before else config)
    assert {source.task for source in run.data.sources} <= {"text", "caption"}
    assert not any(run.data.slots.values())


def test_data_that_teach_nothing_are_told(run, capsys):
    """Questions about pictures, of a system whose reading is frozen: it "trained" by nothing."""
    layout, tokenizer = make_system(run).layout, load_tokenizer(run.tokenizer)
    for norms, is_told in (((0.0, 0.0), True), ((0.0, 1e-9), False), ((), False)):
        told = RowsTold(run.data, layout, tokenizer)
        for step in (10, 20):
            told.scalars(step, {f"grad_norm/{i}": x for i, x in enumerate(norms)})
        said = capsys.readouterr().err
        assert said.count("these data teach it nothing") == is_told


def test_a_cpu_computes_in_float32_and_keeps_what_fits(run):
    assert run.dtype == "float32"
    assert run.remat == "none"


def test_what_is_drawn_again_and_again_is_encoded_once(run):
    assert run.cache_frozen


def test_every_choice_says_why(run):
    keys = [line.partition("=")[0] for line in run.chosen]
    assert keys == ["dtype", "data.row_length", "data.slots", "cache_frozen", "remat"]
    assert all(": " in line for line in run.chosen)


def test_the_command_line_decides_what_it_names(whole, data):
    words = ["data.row_length=512", "data.slots.und=2", "remat=full"]
    tuned = with_user_data(resolve(load("finetune"), words), str(whole[0]), [data])
    run = defaults.chosen(tuned, whole[0] / "none", words)
    assert (run.data.row_length, run.data.slots["und"], run.remat) == (512, 2, "full")
    assert [line.partition("=")[0] for line in run.chosen] == ["dtype", "cache_frozen"]


def test_what_was_chosen_is_recorded_and_taken_again(whole, data, tmp_path, capsys, monkeypatch):
    words = [
        "finetune", "--config", "finetune", "--init-from", str(whole[0]), "--data", str(data),
        "--run-dir", str(tmp_path / "r"), "stage.steps=3", "data.rows=2", "mesh.fsdp=1",
        "loop.log_every=1", "loop.eval_every=0", "loop.save_every=1", "loop.writers=jsonl",
    ]  # fmt: skip
    assert main([*words, "--stop-at", "1"]) == 0
    assert "data.row_length=256: documents have" in capsys.readouterr().err
    before = read_run(tmp_path / "r")["config"]
    assert before["chosen"][1].startswith("data.row_length=256")
    monkeypatch.setattr(defaults, "_SHORTEST", 512)  # what would be chosen now is another
    assert main(words) == 0
    after = read_run(tmp_path / "r")
    assert after["config"]["data"] == before["data"]
    assert after["config"]["chosen"] == before["chosen"]
    assert json.loads((tmp_path / "r" / "status.json").read_text())["step"] == 3
    # The tokenizer of pictures is frozen; the tower that looks at them is not, and nothing is kept.
    assert [path.name[:3] for path in (tmp_path / "r" / "cache").iterdir()] == ["gen"]

"""Fine-tuning on a user's own records, from a checkpoint."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from tests.goldens import check_golden
from tests.main.test_cli import fails
from unijax.core import tree
from unijax.core.errors import UserError
from unijax.core.system import init_shapes
from unijax.data import tokenizer as tokenizers
from unijax.data.loader import Loader
from unijax.main.config import load
from unijax.main.finetune import with_adapters, with_user_data
from unijax.main.run import make_system, resolve
from unijax.main.train import train
from unijax.train.checkpoint import read_params
from unijax.train.lora import matched
from unijax.train.stage import match_rules

COLOURS = ("red", "green", "blue", "white")
# What is our choice in the config, reduced to the size of the checkpoint.
SMALL = (
    "dtype=float32", "remat=none", "stage.steps=24", "data.rows=2", "data.row_length=128",
    "stage.optimizers.main.learning_rate=0.003", "stage.optimizers.main.warmup_steps=4",
    "validation.batches=1", "validation.samples=1", "mesh.data=1", "mesh.fsdp=1",
    "loop.log_every=1", "loop.eval_every=8", "loop.save_every=0", "loop.writers=jsonl",
)  # fmt: skip


def write(folder: pathlib.Path, name: str, lines: list[dict]) -> pathlib.Path:
    path = folder / name
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("mine")
    for colour in COLOURS:
        Image.new("RGB", (20, 16), colour).save(folder / f"{colour}.png")
    captions = [{"image": f"{c}.png", "caption": f"a {c} picture"} for c in COLOURS]
    write(folder, "mine.jsonl", captions[:3])
    write(folder, "held.jsonl", captions[3:])
    asked = {"question": "Which colour?", "answer": "green"}
    write(folder, "asked.jsonl", [{"image": "green.png", **asked}])
    write(folder, "words.jsonl", [{"text": "red, green and blue"}])
    return folder


def tuned(init_from: pathlib.Path, data: list, held_out: list = ()):
    run = resolve(load("configs/finetune.py"), SMALL)
    return with_user_data(run, str(init_from), data, held_out)


@pytest.fixture(scope="module")
def done(whole, data, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("tuned")
    run = tuned(whole[0], [data / "mine.jsonl", data / "asked.jsonl"], [data / "held.jsonl"])
    train(run, run_dir, init_from=str(whole[0]))
    return run, run_dir


def rows(run_dir: pathlib.Path, key: str) -> list[dict]:
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [row for row in lines if key in row]


def test_a_refused_finetune_writes_nothing_into_a_finished_run(whole, data, capsys):
    """A model card told of a stage that never was."""
    base, _ = whole
    before = {p: p.stat().st_mtime_ns for p in base.rglob("*") if p.is_file()}
    words = ["--config", "finetune", "--init-from", str(base), "--run-dir", str(base)]
    words += ["--data", str(data / "mine.jsonl"), "mesh.fsdp=1", "stage.steps=3"]
    assert "checkpoints of stage 'tiny'" in fails(capsys, "finetune", *words)
    assert before == {p: p.stat().st_mtime_ns for p in base.rglob("*") if p.is_file()}


def test_golden_loss_curve_of_finetuning(done):
    names = ("loss", "understanding/loss", "code/loss", "tokens")
    text = "\n".join(
        f"{row['step']:2d} " + " ".join(f"{n}={row.get(n, float('nan')):.4g}" for n in names)
        for row in rows(done[1], "loss")
    )
    check_golden("finetune_loss_curve.txt", text)


def test_losses_fall(done):
    for name in ("understanding/loss", "code/loss"):
        values = [row[name] for row in rows(done[1], name)]
        assert np.mean(values[-4:]) < 0.9 * np.mean(values[:4]), name


def test_records_teach_all_that_they_can(done):
    named = {g.name: [s.task for s in g.sources] for g in done[0].data.groups}
    assert named == {"und": ["describe", "question"], "gen": ["generate"]}


def test_validation_is_of_the_held_out_records(done):
    paths = {s.path for g in done[0].validation.groups for s in g.sources}
    assert {pathlib.Path(p).name for p in paths} == {"held.jsonl"}
    assert [r["step"] for r in rows(done[1], "validation/code/loss")] == [8, 16, 24]
    (line,) = rows(done[1], "texts")[0]["texts"].values()
    assert line.endswith("(true: a white picture)")


def test_without_held_out_records_nothing_is_validated(whole, data):
    assert tuned(whole[0], [data / "mine.jsonl"]).validation.batches == 0


def test_the_image_tokenizer_stays_and_the_rest_moves(whole, done):
    before, after = (tree.flatten(read_params(d)) for d in (whole[0], done[1]))
    for path, x in before.items():
        same = np.array_equal(np.asarray(x), np.asarray(after[path]))
        assert same == path.startswith("vqmodel/"), path


def test_sizes_and_tokenizer_are_the_checkpoints(whole, data):
    run = tuned(whole[0], [data / "mine.jsonl"])
    assert run.model.text.hidden_size == 32
    streams = make_system(run).layout.by_role
    assert (streams["und"].size, streams["gen"].tokens) == (16, 16)
    assert run.tokenizer == str(whole[0] / "tokenizer")


def test_records_of_no_group_of_the_config_are_told(whole, data):
    run = resolve(load("configs/finetune.py"), SMALL)
    without = tuple(g for g in run.data.groups if g.name != "text")
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, groups=without))
    with pytest.raises(UserError, match=r"words.jsonl.*records for \['text'\]"):
        with_user_data(run, str(whole[0]), [data / "words.jsonl"])


def test_two_files_of_one_name_are_two_sources(whole, data, tmp_path):
    words = write(
        tmp_path, "mine.jsonl", [{"text": "red"}, {"prompt": "red", "image": str(data / "red.png")}]
    )
    run = tuned(whole[0], [data / "mine.jsonl", words])
    named = {g.name: [s.name for s in g.sources] for g in run.data.groups}
    assert named["gen"] == ["mine_generate", "mine.2_generate"]
    assert (named["und"], named["text"]) == (["mine_describe"], ["mine.2_text"])


def test_lines_of_every_documented_kind_in_one_file_teach_what_they_can(whole, data):
    chat = [{"role": "user", "content": "Red?"}, {"role": "assistant", "content": "Yes"}]
    lines = [
        {"text": "red"},
        {"image": "red.png", "caption": "a red picture"},
        {"image": "red.png", "question": "Which colour?", "answer": "red"},
        {"messages": chat},
        {"messages": [chat[0], {"role": "assistant", "content": "<image>"}], "images": ["red.png"]},
        {"parts": [{"text": "see"}, {"image": "red.png"}]},
        {"image": "blue.png", "label": "blue", "category": "colour", "keywords": ["blue"]},
    ]
    run = tuned(whole[0], [write(data, "all.jsonl", lines)])
    tasks = {g.name: {s.task for s in g.sources} for g in run.data.groups}
    assert tasks == {
        "und": {"describe", "question", "chat", "page", "name", "category", "keywords"},
        "text": {"text"},
        "gen": {"generate", "category_to_image", "draw"},
    }
    loader = Loader(run.data, make_system(run).layout, tokenizers.load(run.tokenizer))
    for _ in range(8):
        next(loader)
    loader.close()


def test_the_tokenizer_of_a_named_step_is_the_runs(whole, data):
    step = sorted((whole[0] / "checkpoints").iterdir())[0]
    run = tuned(step, [data / "mine.jsonl"])
    assert run.tokenizer == str(whole[0] / "tokenizer")


def test_records_that_teach_nothing_are_told(whole, data, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    path = write(tmp_path, "bare.jsonl", [{"image": "a.png"}])
    with pytest.raises(UserError, match=r"bare\.jsonl"):
        tuned(whole[0], [path])


def test_adapters_of_a_rank_are_of_the_decoder_alone_and_learn_faster():
    run = resolve(load("configs/finetune.py"), SMALL)
    adapted = with_adapters(run, 16)
    (rule,) = adapted.stage.lora
    assert (rule.rank, rule.alpha, rule.pattern) == (16, 16.0, "language_model/layers/")
    rates = [r.stage.optimizers["main"].learning_rate for r in (adapted, run)]
    assert rates[0] == pytest.approx(10 * rates[1])
    assert not adapted.loop.save_frozen
    system = make_system(adapted)
    assert {path.split("/")[0] for path in matched(make_system(run), adapted.stage.lora)} == {
        "language_model"
    }
    trained = match_rules(adapted.stage, list(tree.flatten(init_shapes(system))))
    assert all(path.endswith(("_a", "_b")) for path, r in trained.items() if not r.frozen)
    with pytest.raises(UserError, match="rank: found 0; expected 1 or more"):
        with_adapters(run, 0)

"""The whole path: a config, shipped data, the loop, a run directory."""

import json
import os
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest

from tests import logs
from tests.goldens import check_golden
from tests.logs import everything
from tests.main import tiny
from unijax.core import exit_codes, lease, tree
from unijax.core.errors import UserError
from unijax.core.record import to_json
from unijax.data.tokenizer import load
from unijax.main import config as config_lib
from unijax.main.cli import main
from unijax.main.run import resolve
from unijax.main.train import train
from unijax.train.checkpoint import read_params, read_run
from unijax.train.resume import check_resumable

TINY = pathlib.Path(tiny.__file__)


def lines(run_dir: pathlib.Path) -> list[dict]:
    return [row for row in logs.lines(run_dir) if "texts" not in row]


def test_golden_loss_curve(whole):
    rows = [r for r in lines(whole[0]) if "loss" in r]
    names = ("loss", "text/loss", "understanding/loss", "code/loss", "padding", "tokens")
    # Four digits: the last ones differ between machines.
    text = "\n".join(
        f"{row['step']:2d} " + " ".join(f"{n}={row.get(n, float('nan')):.4g}" for n in names)
        for row in rows
    )
    check_golden("tiny_loss_curve.txt", text)


def test_every_loss_falls(whole):
    rows = [r for r in lines(whole[0]) if "loss" in r]
    for name in ("text/loss", "understanding/loss", "code/loss"):
        values = [r[name] for r in rows if name in r]
        assert np.mean(values[-5:]) < 0.9 * np.mean(values[:5]), name


def test_stopping_and_resuming_gives_the_same_bits_data_included(whole, tmp_path):
    run = resolve(tiny.get_config())
    train(run, tmp_path, stop_at=13)
    resumed = train(run, tmp_path)
    states = (jax.tree.leaves_with_path(jax.device_get(state)) for state in (whole[1], resumed))
    for (path, a), (_, b) in zip(*states, strict=True):
        assert a.tobytes() == b.tobytes(), path
    assert lines(tmp_path) == lines(whole[0])


def test_validation_is_reported_by_modality_at_its_period(whole):
    rows = [r for r in lines(whole[0]) if "validation/code/loss" in r]
    assert [r["step"] for r in rows] == [10, 20, 30]
    assert {"validation/text/loss", "validation/understanding/loss"} <= rows[0].keys()


def test_held_out_prompts_are_drawn_and_pictures_explained_at_every_evaluation(whole):
    texts = [r for r in everything(whole[0]) if "texts" in r]
    assert [r["step"] for r in texts] == [10, 20, 30]
    first, second = texts[0]["texts"].values()
    assert first != second
    for line in (first, second):
        assert re.fullmatch(r"\[image\] \w+ .* -> .*\(true: \w.*\)", line, re.DOTALL), line
    grids = sorted((whole[0] / "samples").glob("*.png"))
    assert [g.name[:7] for g in grids] == ["0000010", "0000020", "0000030"]


def test_parameters_are_listed_with_what_trains(whole):
    text = (whole[0] / "parameters.txt").read_text()
    flat = tree.flatten(read_params(whole[0]))
    total = sum(x.size for x in flat.values())
    trained = sum(x.size for p, x in flat.items() if not p.startswith(("vision_", "vqmodel/")))
    assert text.endswith(f"Trained: {trained:,} of {total:,}\n")
    assert all(f"| {path} " in text for path in flat)


def test_realised_shares_are_metrics_of_every_step(whole):
    rows = [r for r in lines(whole[0]) if "loss" in r]
    total = {g: sum(r[f"data/{g}_documents"] for r in rows) for g in ("und", "text", "gen")}
    everything = sum(total.values())
    # Rows hold a few documents back, so the trained prefix is near the ratio, not on it.
    assert abs(total["und"] / everything - 0.4) < 0.05
    assert abs(total["gen"] / everything - 0.4) < 0.05


def test_cached_features_and_codes_train_the_same_curve(whole, tmp_path):
    run = resolve(tiny.get_config(), ["cache_frozen=true", "stage.steps=3"])
    train(run, tmp_path)
    for ours, theirs in zip(lines(tmp_path)[:3], lines(whole[0])[:3]):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


def test_checkpoint_describes_itself(whole):
    run = read_run(whole[0])
    assert run["stage"] == "tiny"
    assert resolve(run["config"]) == resolve(tiny.get_config())
    assert (whole[0] / "tokenizer" / "tokenizer.model").exists()


def test_next_stage_starts_from_the_parameters_with_all_else_fresh(whole, tmp_path):
    run = resolve(tiny.get_config(), ["stage.name=second", "stage.steps=1",
                                      "stage.optimizers.main.learning_rate=0.0"])  # fmt: skip
    state = train(run, tmp_path, init_from=str(whole[0]))
    assert int(state.step) == 1
    before, after = tree.flatten(read_params(whole[0])), tree.flatten(read_params(tmp_path))
    for path, x in before.items():
        np.testing.assert_array_equal(np.asarray(x), np.asarray(after[path]), err_msg=path)


def test_tokenizer_with_more_ids_than_rows_is_refused(tmp_path):
    run = resolve(tiny.get_config(), ["model.text.vocab_size=1000"])
    with pytest.raises(UserError, match="ids below the model's vocab_size, 1000"):
        train(run, tmp_path)


def test_a_mistake_leaves_no_new_directory_but_what_was_there(tmp_path, monkeypatch):
    run = resolve(tiny.get_config(), ["model.text.vocab_size=1000"])

    def fails(name):
        with pytest.raises(UserError, match="vocab_size, 1000"):
            train(run, tmp_path / name)
        return sorted(path.name for path in tmp_path.glob(f"{name}/*"))

    assert fails("new") == []
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "mine.txt").write_text("mine")
    assert "mine.txt" in fails("old")
    (tmp_path / "empty").mkdir(mode=0o700)
    assert fails("empty") == []
    assert (tmp_path / "empty").stat().st_mode & 0o777 == 0o700  # the user made it
    monkeypatch.setenv("UNIJAX_JOB", "40_1")  # an engine tables the failure
    assert fails("job") == ["status.json"]


def test_a_run_directory_that_another_run_holds_is_left_as_it_is(tmp_path, capsys):
    """Both ended with tracebacks, or the log of one lost the lines of the other."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    with lease.hold(run_dir):
        argv = ["train", "--config", str(TINY), "--run-dir", str(run_dir)]
        assert main(argv) == exit_codes.MISTAKE
        said = capsys.readouterr().err
        assert f"held by process {os.getpid()}" in said
        assert "Traceback" not in said
        assert os.listdir(run_dir) == [lease.FOLDER]


def test_a_tokenizer_that_was_half_copied_is_copied_again(whole, tmp_path):
    """Killed in the copy, a run trained to its end, and then nobody could read what it said."""
    shutil.copytree(whole[0], tmp_path / "run")
    copy = tmp_path / "run" / "tokenizer"
    model = copy / "tokenizer.model"
    content = model.read_bytes()
    for damage in (lambda: model.write_bytes(content[:1000]), lambda: _rest_is_missing(copy)):
        damage()
        train(resolve(tiny.get_config()), tmp_path / "run")
        assert model.read_bytes() == content
        load(copy)


def _rest_is_missing(copy):
    (copy / "special_tokens.json").unlink()


def test_initial_weights_of_another_size_are_refused(whole, tmp_path):
    run = resolve(tiny.get_config(), ["model.text.hidden_size=64"])
    with pytest.raises(UserError, match="parameters of another shape"):
        train(run, tmp_path, init_from=str(whole[0]))


def test_a_checkpoint_of_another_system_is_told_by_the_names_of_both(whole, tmp_path):
    run = resolve(config_lib.load("chameleon_demo"), ["validation.batches=0"])
    with pytest.raises(UserError, match=r"of 'janus' .*; expected one of 'chameleon'"):
        train(run, tmp_path / "run", init_from=str(whole[0]))
    saved = read_run(whole[0])
    now = saved | {"config": to_json(run)}
    with pytest.raises(UserError, match="system='janus'; expected system='chameleon'"):
        check_resumable("taken", saved, now)


def test_rows_that_do_not_divide_over_parts_are_refused(tmp_path):
    run = resolve(tiny.get_config(), ["accumulate=3"])
    with pytest.raises(UserError, match=r"data.rows: found 2 in 3 parts .* Make it a multiple of"):
        train(run, tmp_path)


def test_resuming_a_run_of_another_size_is_refused(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    run = resolve(tiny.get_config(), ["model.text.intermediate_size=64", "stage.steps=40"])
    with pytest.raises(UserError, match=r"a run with model\.text\.intermediate_size=48; expected"):
        train(run, tmp_path / "run")


def test_a_mistake_told_by_who_lost_the_directory_removes_nothing_of_who_has_it(
    tmp_path, monkeypatch
):
    """Stopped before its first step and given up, it woke and removed the other's whole run."""
    held = tmp_path / "run" / "lease"

    def lose(*args):
        owner = json.loads((held / "1").read_text())
        (held / "2").write_text(json.dumps(owner | {"pid": owner["pid"] + 1}))
        raise UserError("here", "a mistake", "none", "Correct it.")

    monkeypatch.setattr("unijax.main.train._train", lose)
    with pytest.raises(lease.Lost):
        train(resolve(tiny.get_config()), held.parent)
    assert (held / "2").exists()
    assert (held.parent / "status.json").exists()


def test_a_directory_that_is_removed_under_a_new_run_is_told(tmp_path, monkeypatch):
    def lose(*args):
        shutil.rmtree(tmp_path / "run")
        raise UserError("run", "no such directory", "it", "Restore it.")

    monkeypatch.setattr("unijax.main.train._train", lose)
    with pytest.raises(UserError, match="no such directory"):
        train(resolve(tiny.get_config()), tmp_path / "run")

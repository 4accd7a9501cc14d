"""Users' data is looked at before a run: all that is broken, left out where that is asked."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.main.test_cli import fails
from tests.main.test_finetune import SMALL
from unijax.data.config import DataConfig
from unijax.data.user import open_own
from unijax.main import checking
from unijax.main.cli import main
from unijax.main.config import load
from unijax.main.finetune import with_user_data
from unijax.main.run import make_system
from unijax.main.verbs import resolve
from unijax.train.checkpoint import read_run

COUNT = 24


@pytest.fixture
def data(tmp_path) -> pathlib.Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    for i in range(COUNT):
        Image.new("RGB", (20, 16), (10 * i, 0, 0)).save(folder / f"{i:02}.png")
        (folder / f"{i:02}.txt").write_text(f"picture number {i}")
    return folder


def break_some(folder: pathlib.Path) -> None:
    """One picture is cut short, one is none, one has no text."""
    whole = (folder / "03.png").read_bytes()
    (folder / "03.png").write_bytes(whole[: len(whole) // 2])
    (folder / "05.png").write_text("no picture")
    (folder / "07.txt").unlink()


def test_check_tells_all_that_is_broken_at_once(data, tmp_path, capsys):
    """The first broken picture was found in the middle of training."""
    break_some(data)
    sheet = tmp_path / "sheet.png"
    assert main(["check", str(data), "--sheet", str(sheet)]) == 1
    said = capsys.readouterr().out
    assert f"{COUNT} records, of which 3 cannot be used" in said
    assert f"describe {COUNT - 3}" in said
    for name in ("03.png", "05.png", "07.png"):
        assert name in said
    assert np.asarray(Image.open(sheet)).std() > 0


def test_check_of_what_is_whole(data, capsys):
    assert main(["check", str(data)]) == 0
    assert "0 cannot be used" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["jsonl", "json"])
def test_broken_lines_are_told_together(data, capsys, form):
    lines = [{"image": f"{i:02}.png", "caption": "a"} for i in range(6)]
    lines[1] = {"image": "nowhere.png", "caption": "a"}
    lines[4] = {"imgae": "04.png", "caption": "a"}
    path = data / f"lines.{form}"
    text = "\n".join(map(json.dumps, lines)) if form == "jsonl" else json.dumps(lines, indent=0)
    path.write_text(text)
    assert main(["check", str(path)]) == 1
    said = capsys.readouterr().out
    assert "6 records, of which 2 cannot be used" in said
    assert "nowhere.png" in said
    assert "Did you mean 'image'?" in said


def tune(data: pathlib.Path, whole: pathlib.Path, run_dir: pathlib.Path, *more: str) -> list[str]:
    small = [*SMALL, "stage.steps=4", "loop.eval_every=0", "loop.save_every=1"]
    return [
        "finetune", "--config", "finetune", "--init-from", str(whole), "--data", str(data),
        "--run-dir", str(run_dir), *small, *more,
    ]  # fmt: skip


def test_a_run_begins_with_the_check(data, whole, tmp_path, capsys):
    break_some(data)
    status = main(tune(data, whole[0], tmp_path / "r"))
    said = capsys.readouterr().err
    assert status == 2
    assert f"3 of {COUNT} records that cannot be used" in said
    assert "--skip-bad" in said
    assert not (tmp_path / "r").exists()


def test_too_many_broken_records_end_the_run(data, whole, tmp_path, capsys):
    break_some(data)
    assert main(tune(data, whole[0], tmp_path / "r", "--skip-bad", "0.1")) == 2
    assert "but for 10.0%" in capsys.readouterr().err


def test_broken_records_are_left_out_and_named_and_a_resume_knows_them(
    data, whole, tmp_path, capsys
):
    break_some(data)
    run_dir = tmp_path / "r"
    words = tune(data, whole[0], run_dir, "--skip-bad", "0.2")
    assert main([*words, "--stop-at", "2"]) == 0
    said = capsys.readouterr().err
    assert f"3 of {COUNT} records are left out" in said
    assert "05.png" in said
    (source, *_) = read_run(run_dir)["config"]["data"]["groups"][0]["sources"]
    assert [pathlib.Path(place).name for place in source["left_out"]] == [
        "03.png", "05.png", "07.png",
    ]  # fmt: skip
    (data / "09.png").unlink()  # and one that is taken out by hand
    (data / "09.txt").unlink()
    assert main(words) == 0
    said = capsys.readouterr().err
    assert f"{COUNT - 3} records, now {COUNT - 4}" in said
    assert json.loads((run_dir / "status.json").read_text())["state"] == "done"


def test_a_run_does_not_go_on_in_other_data_unasked(data, whole, tmp_path, capsys):
    words = tune(data, whole[0], tmp_path / "r")
    assert main([*words, "--stop-at", "2"]) == 0
    for end in ("png", "txt"):
        (data / f"09.{end}").unlink()
    assert main(words) == 2
    assert "data.may_change=true" in capsys.readouterr().err
    assert main([*words, "data.may_change=true"]) == 0


def test_a_folder_of_what_is_held_out_is_not_trained_on(data):
    """`test/` was a category like others."""
    shutil.copytree(data, data / "test")
    records = open_own(data)
    assert len(records) == COUNT
    assert not any("test/" in record["where"] for record in records)
    assert len(open_own(data / "test")) == COUNT


def test_lengths_padding_and_slots_are_told(data, whole):
    run = with_user_data(resolve(load("finetune"), SMALL), str(whole[0]), [data])
    assert isinstance(run.data, DataConfig)
    from unijax.data.tokenizer import load as load_tokenizer

    found = checking.filling(run.data, make_system(run).layout, load_tokenizer(run.tokenizer))
    assert set(found.lengths) == {"mine_describe", "mine_generate"}
    assert 0 < found.padding < 1
    assert set(found.slots) == {"und", "gen"}
    assert "padding" in found.table()


def test_a_single_mistake_is_one_line(data, whole, tmp_path, capsys):
    (data / "05.png").write_text("no picture")
    assert "05.png" in fails(capsys, *tune(data, whole[0], tmp_path / "r"))

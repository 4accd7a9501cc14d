"""The command line: one clear message, no traceback, a status, nothing half-written."""

import pathlib

import pytest

from unijax.main.cli import main

TINY = str(pathlib.Path(__file__).with_name("tiny.py"))


def fails(capsys, *argv: str) -> str:
    """Runs the command, checks that it refused in one line, and returns that line."""
    try:
        status = main(argv)
    except SystemExit as e:  # the parser's way out
        status = e.code
    said = capsys.readouterr().err.strip()
    assert status == 2
    assert said.startswith("error: ")
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1
    return said


def test_misspelt_flag_names_the_right_one(capsys, tmp_path):
    said = fails(capsys, "train", "--config", TINY, "--run-dri", str(tmp_path / "r"))
    assert "Did you mean --run-dir?" in said
    assert not (tmp_path / "r").exists()


def test_unknown_verb(capsys):
    assert "invalid choice: 'trian'" in fails(capsys, "trian")


def test_misspelt_key_names_the_right_one(capsys, tmp_path):
    run_dir = str(tmp_path / "r")
    said = fails(capsys, "train", "--config", TINY, "--run-dir", run_dir, "stage.setps=3")
    assert "Did you mean 'steps'?" in said
    assert not (tmp_path / "r").exists()


def test_missing_config(capsys, tmp_path):
    said = fails(capsys, "train", "--config", "nowhere.py", "--run-dir", str(tmp_path))
    assert "no file 'nowhere.py'" in said


def test_unknown_argument_of_a_config(capsys, tmp_path):
    said = fails(
        capsys, "train", "--config", "configs/janus_pro.py:3b,stage1", "--run-dir", str(tmp_path)
    )
    assert "argument '3b,stage1'" in said


def test_missing_tokenizer(capsys, tmp_path):
    said = fails(
        capsys, "train", "--config", TINY, "--run-dir", str(tmp_path / "r"), "tokenizer=nowhere"
    )
    assert "nowhere: found no such file" in said


def test_span_longer_than_a_row(capsys, tmp_path):
    said = fails(
        capsys, "train", "--config", TINY, "--run-dir", str(tmp_path / "r"), "data.row_length=18"
    )
    assert "16 tokens an image and rows of 18" in said


@pytest.mark.parametrize("verb", [("sample", "--prompt", "a", "--out", "o"), ("ask", "what?")])
def test_no_checkpoint_to_use(capsys, tmp_path, verb):
    said = fails(capsys, verb[0], str(tmp_path), *verb[1:])
    assert "no checkpoint" in said


def test_run_directory_that_is_a_file(capsys, tmp_path):
    (tmp_path / "r").write_text("mine")
    said = fails(capsys, "train", "--config", TINY, "--run-dir", str(tmp_path / "r"))
    assert "cannot be written" in said
    assert (tmp_path / "r").read_text() == "mine"


def test_import_of_nothing(capsys, tmp_path):
    assert "neither a source nor a part" in fails(capsys, "import", "--run-dir", str(tmp_path))


def test_show_prints_rows_as_text(capsys):
    assert main(["show", "--config", TINY, "--rows", "1"]) == 0
    said = capsys.readouterr().out
    assert "row 0:" in said
    assert "»" in said  # what is learned is marked

"""The command line: one clear message, no traceback, a status, nothing half-written."""

import errno
import pathlib

import pytest

from unijax.core import exit_codes
from unijax.core.errors import Unwritable
from unijax.main import verbs
from unijax.main.cli import main, parse

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


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["train", "--config", TINY, "--run-dri", "r"], "--run-dri. Did you mean --run-dir?"),
        (["sample", "r", "--promt", "x", "--out", "o"], "--promt. Did you mean --prompt?"),
        (["sample", "r", "--prompt", "x", "--out", "o", "--guidence=3"], "--guidance?"),
        (["ask", "r", "--bogus"], "unknown flag --bogus. See `unijax ask --help`"),
    ],
)
def test_misspelt_flag_names_itself_and_the_right_one(capsys, argv, said):
    assert said in fails(capsys, *argv)


def test_flags_stand_anywhere():
    args = parse(["ask", "run", "--image", "p.png", "What is it?", "--seed", "3", "And now?"])
    assert (args.run_dir, args.image) == ("run", ["p.png"])
    assert (args.question, args.seed) == (["What is it?", "And now?"], 3)
    args = parse(["train", "--config", "c.py", "a=1", "--run-dir", "r", "b=2"])
    assert args.overrides == ["a=1", "b=2"]


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


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (["llama"], "--part llama: found no NAME=PATH"),
        (["llama="], "--part llama=: found no NAME=PATH"),
        (["vq=a", "vq=b"], "--part vq=b: found given twice"),
        (["vq=a"], "parts without --config"),
    ],
)
def test_import_of_parts_that_are_none(capsys, tmp_path, parts, said):
    flags = [word for part in parts for word in ("--part", part)]
    assert said in fails(capsys, "import", "--run-dir", str(tmp_path), *flags)


def test_import_of_a_part_that_the_system_does_not_have(capsys, tmp_path):
    words = ("import", "--config", TINY, "--run-dir", str(tmp_path / "r"), "--part", "clip=a")
    assert "no part 'clip' of the system 'janus'" in fails(capsys, *words)


def test_show_prints_rows_as_text(capsys):
    assert main(["show", "--config", TINY, "--rows", "1"]) == 0
    said = capsys.readouterr().out
    assert "row 0:" in said
    assert "»" in said  # what is learned is marked


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("tokenizer=", "tokenizer: found ''"),
        ("loop.log_every=0", "loop.log_every: found 0; expected 1 or more"),
        ("loop.keep=0", "loop.keep: found 0"),
        ("loop.writers=jsnl", "loop.writers: found ['jsnl']"),
        ("remat=bogus", "remat: found 'bogus'; expected one of"),
        ("stage.rules.0.pattern=(", "expected a regular expression"),
        ("stage.steps=0", "stage.steps: found 0"),
        ("validation.batches=-1", "validation.batches: found -1"),
        # Sizes of pictures are the model's: the data has no say in them.
        ("data.und.tokens=9", "data.und: found unknown key 'und'"),
        ("data.gen.size=32", "data.gen: found unknown key 'gen'"),
        ("data.slots.und=-1", "data.slots.und: found -1; expected at least 0"),
        ("data.slots.und=0", "found the task 'name' without slots for its images (und)"),
        ("data.slots.undd=3", "data.slots.undd: found unknown key 'undd'; expected one of"),
    ],
)
def test_impossible_values_are_refused_before_anything_is_written(capsys, tmp_path, change, said):
    run_dir = tmp_path / "r"
    assert said in fails(capsys, "train", "--config", TINY, "--run-dir", str(run_dir), change)
    assert not run_dir.exists()


@pytest.mark.parametrize("size", ["0", "-1", "nan"])
def test_shards_of_no_size(capsys, tmp_path, size):
    argv = ["export", str(tmp_path / "r"), str(tmp_path / "out"), "--shard-gib", size]
    assert "--shard-gib" in fails(capsys, *argv)


def test_a_path_that_may_not_be_opened_is_told_without_a_traceback(capsys, monkeypatch):
    def locked(args):
        raise PermissionError(errno.EACCES, "Permission denied", "a/runs.csv")

    monkeypatch.setattr(verbs, "train_", locked)
    said = fails(capsys, "train", "--config", TINY, "--run-dir", "r")
    assert "a/runs.csv: found a path that this user may not open" in said


@pytest.mark.parametrize(
    "error",
    [
        Unwritable("runs/a", "No space left on device", "room", "Free some."),
        OSError(errno.ENOSPC, "No space left on device", "runs/a"),
    ],
)
def test_a_disk_that_can_no_longer_be_written_is_no_mistake_and_is_tried_again(
    capsys, monkeypatch, error
):
    def full(args):
        raise error

    monkeypatch.setattr(verbs, "train_", full)
    status = main(["train", "--config", TINY, "--run-dir", "r"])
    assert exit_codes.failure(status) == "node"
    assert "runs/a: found No space left on device" in capsys.readouterr().err

"""The command line: one clear message, no traceback, a status, nothing half-written."""

import errno
import json
import logging
import pathlib

import pytest

from unijax.core import exit_codes
from unijax.core.errors import Unwritable
from unijax.main import verbs
from unijax.main.cli import main, parse
from unijax.main.train import TqdmHandler, log_above_bars

TINY = str(pathlib.Path(__file__).with_name("tiny.py"))


def fails(capsys, *argv: str) -> str:
    """Runs the command, checks that it refused in one line, and returns that line."""
    try:
        status = main(argv)
    except SystemExit as e:  # the parser's way out
        status = e.code
    lines = capsys.readouterr().err.strip().splitlines()
    said = "\n".join(line for line in lines if not line.startswith("attention of "))  # a log's
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
    assert "unknown verb 'trian'. Did you mean train?" in fails(capsys, "trian")
    assert "unknown verb 'xyz'. See `unijax --help`." in fails(capsys, "xyz")


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out.startswith("unijax ")


def test_help_tells_defaults(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["sample", "--help"])
    said = capsys.readouterr().out
    assert "pictures of each prompt (4)" in said
    assert "(None)" not in said


def test_keys_of_a_config_are_listed_with_what_they_are(capsys):
    assert main(["config", "--help-keys"]) == 0
    said = capsys.readouterr().out
    assert "stage.optimizers.NAME.learning_rate  float, required" in said
    assert "data.open_rows  int = 32\n    rows filled at once." in said
    assert main(["config", "--help-keys", "loop.save_every"]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 1
    assert "Did you mean 'loop.keep'?" in fails(capsys, "config", "--help-keys", "loop.kep")


def test_every_key_of_a_config_says_what_it_is():
    from unijax.main.keys import keys

    for system in ("janus", "tokenizer"):
        lines = keys(system).splitlines()
        bare = [
            line.split()[0]
            for line, after in zip(lines, [*lines[1:], ""])
            if not line.startswith(" ") and not after.startswith(" ")
        ]
        groups = {"stage", "loop", "data", "model", "mesh", "validation"}
        assert [key for key in bare if key.split(".")[0] not in groups] == []


def test_a_config_is_printed_resolved(capsys):
    assert main(["config", "--config", "janus_demo", "stage.steps=7"]) == 0
    assert json.loads(capsys.readouterr().out)["stage"]["steps"] == 7


def test_a_key_at_the_top_names_the_file(capsys, tmp_path):
    """`error: : found unknown key 'comand'` named none."""
    (tmp_path / "a.yaml").write_text("name: a\ncomand: b\n")
    said = fails(capsys, "launch", str(tmp_path / "a.yaml"), "--engine", "local")
    assert f"error: {tmp_path / 'a.yaml'}: found unknown key 'comand'" in said
    config = "from ml_collections import ConfigDict\ndef get_config():\n"
    (tmp_path / "c.py").write_text(f"{config}    return ConfigDict({{'sytem': 'janus'}})\n")
    said = fails(capsys, "show", "--config", str(tmp_path / "c.py"))
    assert f"error: {tmp_path / 'c.py'}: found unknown key 'sytem'" in said


def test_a_name_of_the_hub_says_how_to_fetch_it(capsys, tmp_path):
    words = ("import", "deepseek-ai/Janus-Pro-1B", "--run-dir", str(tmp_path / "r"))
    assert "hf download deepseek-ai/Janus-Pro-1B" in fails(capsys, *words)
    assert "hf download" not in fails(capsys, "import", "nowhere", *words[2:])


@pytest.mark.parametrize("flag", ["--temperature", "--top-p", "--guidance"])
def test_a_number_that_is_none_is_refused(capsys, flag):
    said = fails(capsys, "sample", "r", "--prompt", "a", "--out", "o", flag, "nan")
    assert "expected a finite number" in said


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
        ("stage.optimizers.main.learning_rate=nan", "learning_rate: found nan"),
        ("stage.optimizers.main.learning_rate=-1", "learning_rate: found -1.0"),
        ("data.p_drop_condition=nan", "data.p_drop_condition: found nan"),
        ("loop.hang_seconds=inf", "loop.hang_seconds: found inf"),
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


def test_a_share_of_broken_records_may_stand_ahead_of_a_change():
    words = ["train", "--config", TINY, "--run-dir", "r", "--skip-bad", "stage.steps=3"]
    args = parse(words)
    assert (args.skip_bad, args.overrides) == (0.01, ["stage.steps=3"])


def test_what_is_no_number_is_told_as_that(capsys):
    said = fails(capsys, "sample", "r", "--prompt", "a", "--out", "q", "--temperature", "abc")
    assert "found 'abc'; expected a finite number" in said


def test_log_lines_stand_above_the_bar(capsys):
    """A library had set up its own handler, and lines ran on behind the bar."""
    root = logging.getLogger()
    theirs = logging.StreamHandler()
    root.addHandler(theirs)
    kept = list(root.handlers)
    try:
        log_above_bars()
        assert theirs not in root.handlers
        assert sum(isinstance(h, TqdmHandler) for h in root.handlers) == 1
    finally:
        root.handlers[:] = [h for h in kept if h is not theirs]


# Where a bucket works, tests/main/test_bucket_runs.py has it.
ADDRESSES = [
    ["train", "--config", TINY, "--run-dir", "r", "hardware=gs://bucket/x"],
    ["import", "--run-dir", "r", "--config", TINY, "--part", "vq=gs://bucket/vq"],
    ["plan", "--config", TINY, "--json", "gs://bucket/plan.json"],
    ["fit", "runs.parquet", "--out", "gs://bucket/fit"],
    ["report", "gs://bucket/fit"],
    ["demo", "--run-dir", "gs://bucket/demo"],
    ["check", "data", "--sheet", "s3://bucket/sheet.png"],
]


@pytest.mark.parametrize("argv", ADDRESSES, ids=" ".join)
def test_an_address_is_no_folder_of_this_machine(capsys, tmp_path, monkeypatch, argv):
    """`export RUN gs://bucket/out` succeeded, into the folder `./gs:/bucket/out`."""
    monkeypatch.chdir(tmp_path)
    assert "a path of this machine" in fails(capsys, *argv)
    assert not list(tmp_path.iterdir())

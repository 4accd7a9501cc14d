"""A system in a package of its own, as docs/adding-a-system.md writes it, installed and used."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "docs" / "adding-a-system.md"


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> pathlib.Path:
    """The files of the page, and an environment that has them installed."""
    folder = tmp_path_factory.mktemp("outside")
    blocks = re.findall(r"```python (\S+)\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert [name for name, _ in blocks] == ["ink.py", "setup.py", "config.py"]
    for name, text in blocks:
        (folder / name).write_text(text)
    (folder / "assets").symlink_to(ROOT / "assets")
    flags = ["--no-deps", "--no-build-isolation", "-q", "--target", str(folder / "site")]
    subprocess.run([sys.executable, "-m", "pip", "install", *flags, str(folder)], check=True)
    return folder


def run(folder: pathlib.Path, *words: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(folder / "site"), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-m", "unijax.main.cli", *words],
        cwd=folder, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(package) -> pathlib.Path:
    done = run(package, "train", "--config", "config.py", "--run-dir", "ink")
    assert done.returncode == 0, done.stderr
    return package


def test_its_losses_fall_and_are_reported(trained):
    rows = [json.loads(x) for x in (trained / "ink" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["ink/loss"] for row in rows if "ink/loss" in row]
    assert len(losses) == 20
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    held_out = [row for row in rows if "validation/ink/loss" in row]
    assert [row["step"] for row in held_out] == [10, 20]
    assert "learning_rate/ink" in rows[0]


def test_it_draws_and_scores(trained):
    done = run(trained, "sample", "ink", "--prompt", "a red fox", "-n", "1", "--out", "drawn")
    assert done.returncode == 0, done.stderr
    assert (trained / "drawn" / "000-a-red-fox-0.png").exists()
    (trained / "texts.jsonl").write_text('{"text": "a word and another"}\n')
    done = run(trained, "score", "ink", "--data", "texts.jsonl")
    assert re.search(r"1 texts, \d+ tokens: perplexity", done.stdout), done.stderr


def test_it_is_shown_and_planned(trained):
    done = run(trained, "show", "--config", "config.py", "--rows", "1")
    assert "{gen image 1, slot 0: 0..15}" in done.stdout, done.stderr


def test_without_a_foreign_format_it_is_not_exported(trained):
    done = run(trained, "export", "ink", "out")
    assert done.returncode == 2
    assert "system 'ink': found no foreign format of it" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (trained / "out").exists()


def test_an_unknown_system_is_told_with_the_nearest(trained):
    done = run(trained, "train", "--config", "config.py", "--run-dir", "x", "system=inc")
    assert done.returncode == 2
    assert "unknown system 'inc'" in done.stderr
    assert "Did you mean 'ink'?" in done.stderr

"""`unijax launch` and `unijax status`, by the command line."""

import pathlib
import re
import subprocess
import sys

import pytest

from tests.main.test_cli import TINY, fails
from unijax.core import status
from unijax.core.status import Status
from unijax.launch.engines import ENGINES
from unijax.launch.spec import expand
from unijax.main import cli
from unijax.main.launching import check, load

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "launch.md"


@pytest.fixture
def sweep(tmp_path) -> pathlib.Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        f"name: tiny\ncommand: unijax train --config {TINY}\ndirectory: {tmp_path}/runs\n"
        "sweep: {seed: [0, 1]}\n"
    )
    return path


def test_the_documented_file_stands_for_runs_that_the_trainer_takes(tmp_path):
    (text,) = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    runs = expand(load(str(path)))
    assert len(runs) == 4
    check(runs)


def test_dry_run_shows_every_file_and_every_call_and_writes_nothing(sweep, tmp_path, capsys):
    assert cli.main(["launch", str(sweep), "--engine", "slurm", "--dry-run"]) == 0
    said = capsys.readouterr().out
    folder = tmp_path / "runs" / "launch"
    assert re.findall(r"==> (.*) <==", said) == [f"{folder}/job.sbatch", f"{folder}/runs.txt"]
    assert said.rstrip().endswith(f"$ sbatch {folder}/job.sbatch")
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.yaml"]


def test_changes_on_the_command_line(sweep, capsys):
    argv = ["launch", str(sweep), "slurm.hours=1.5", "--engine", "slurm", "--dry-run"]
    assert cli.main(argv) == 0
    assert "--time=0-01:30:00" in capsys.readouterr().out


def test_a_python_file_says_the_same(sweep, tmp_path):
    path = tmp_path / "sweep.py"
    path.write_text(f"""
def get_launch():
    return dict(name="tiny", command="unijax train --config {TINY}",
                directory="{tmp_path}/runs", sweep=dict(seed=[0, 1]))
""")
    assert load(str(path)) == load(str(sweep))


def test_a_mistake_in_one_run_is_told_before_any_is_submitted(sweep, tmp_path, capsys):
    sweep.write_text(sweep.read_text().replace("seed:", "sede:"))
    said = fails(capsys, "launch", str(sweep), "--engine", "local")
    assert "run sede-0: sede" in said
    assert "Did you mean 'seed'?" in said
    assert not (tmp_path / "runs").exists()


def test_a_program_that_is_missing_is_told(sweep, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    said = fails(capsys, "launch", str(sweep), "--engine", "slurm")
    assert "no program 'sbatch'" in said
    assert not (tmp_path / "runs").exists()


def test_no_launch_file(capsys):
    assert "no such file" in fails(capsys, "launch", "nowhere.yaml", "--engine", "local")


def test_what_is_no_yaml(sweep, capsys):
    sweep.write_text("name: [")
    assert "what is no YAML" in fails(capsys, "launch", str(sweep), "--engine", "local")


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_has_its_word(engine):
    assert cli.parse(["launch", "a.yaml", "--engine", engine]).engine == engine


def test_status(tmp_path, capsys):
    one = Status("a", "done", 10, 10, 1.0, 100.0, 1.8e9, "here", 1, "")
    status.write(tmp_path / "a", one)
    assert cli.main(["status", str(tmp_path)]) == 0
    assert "1 runs: 1 done" in capsys.readouterr().out


def test_a_table_of_runs_does_not_wait_for_jax(tmp_path):
    status.write(tmp_path, Status("a", "done", 10, 10, 1.0, 100.0, 1.8e9, "here", 1, ""))
    script = (
        "import sys; from unijax.main import cli; "
        f"codes = [cli.main(['status', {str(tmp_path)!r}]), cli.main(['status', '/nothing'])]; "
        "assert codes == [0, 2], codes; "
        "loaded = {'jax', 'numpy', 'orbax', 'ml_collections'} & set(sys.modules); "
        "assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 runs: 1 done" in done.stdout

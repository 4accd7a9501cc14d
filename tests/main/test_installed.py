"""What a wheel holds, away from the checkout."""

import os
import pathlib
import subprocess
import sys
import venv
import zipfile

import pytest

from tests.long import long

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
    made = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(made), "build",
        "--build-base", str(made / "build"), "bdist_wheel", "--dist-dir", str(made / "dist"),
    ]  # fmt: skip
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (found,) = (made / "dist").glob("*.whl")
    return found


def said(command: list, folder: pathlib.Path, **env: str) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, capture_output=True, text=True,
        env=os.environ | env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_wheel_has_one_import_name_and_all_that_a_checkout_ships(wheel):
    """It had a package `launch` at top level, and neither configs nor assets."""
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"unijax"}
    for folder in ("configs", "launch", "assets"):
        for file in (ROOT / folder).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                assert f"unijax/{file.relative_to(ROOT)}" in names


def test_a_wheel_shows_a_shipped_config_in_any_folder(wheel, tmp_path):
    site, here = tmp_path / "site", tmp_path / "here"
    zipfile.ZipFile(wheel).extractall(site)
    here.mkdir()
    command = [sys.executable, "-m", "unijax.main.cli", "show", "--config", "janus_demo"]
    shown = said([*command, "--rows", 1], here, PYTHONPATH=str(site))
    assert "row 0:" in shown
    where = "import unijax.launch, unijax; print(unijax.launch.__file__)"
    assert str(site) in said([sys.executable, "-c", where], here, PYTHONPATH=str(site))
    assert not list(here.iterdir())


@long
def test_a_wheel_in_an_empty_environment_trains_the_demo(wheel, tmp_path):
    """Minutes: everything that the project stands on is installed."""
    venv.create(tmp_path / "venv", with_pip=True)
    programs, here = tmp_path / "venv" / "bin", tmp_path / "here"
    here.mkdir()
    alone = {"PYTHONPATH": ""}
    said([programs / "pip", "install", "-q", wheel], here, **alone)
    assert "row 0:" in said([programs / "unijax", "show", "--config", "janus_demo"], here, **alone)
    short = ("stage.steps=20", "validation.batches=0", "validation.samples=0")
    assert "report:" in said([programs / "unijax", "demo", *short], here, **alone)
    assert (here / "demo" / "report.html").is_file()

"""Every command that the documentation shows is one that the command line takes."""

import pathlib
import re
import shlex

import pytest

from unijax.main import cli
from unijax.main.config import load
from unijax.main.run import resolve

ROOT = pathlib.Path(__file__).parents[2]
SHOWN_IN = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("configs/*.py")]


def commands(path: pathlib.Path, program: str) -> list[str]:
    """Lines that begin with the program, in code blocks or indented, joined where they go on."""
    text = re.sub(r"\\+\n\s*", " ", path.read_text())
    if path.suffix == ".md":
        text = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
    lines = re.findall(rf"^(?: {{4}})?({program} .*)$", text, re.MULTILINE)
    return [line.partition(" #")[0].strip() for line in lines]


UNIJAX = [(path.name, line) for path in SHOWN_IN for line in commands(path, "unijax")]
MAKE = [(path.name, line) for path in SHOWN_IN for line in commands(path, "make")]
PYTHON = [(path.name, line) for path in SHOWN_IN for line in commands(path, "python")]


def test_the_documentation_shows_commands():
    assert {"train", "sample", "ask", "import", "export", "verify", "finetune"} <= {
        line.split()[1] for _, line in UNIJAX
    }


@pytest.mark.parametrize(("where", "line"), UNIJAX)
def test_the_command_line_takes_it(where, line):
    args = cli.parse(shlex.split(line)[1:])
    if getattr(args, "config", None) and "FILE" not in args.config:
        resolve(load(args.config), getattr(args, "overrides", []))


@pytest.mark.parametrize(("where", "line"), MAKE)
def test_make_has_the_target(where, line):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert line.split()[1] in targets


@pytest.mark.parametrize(("where", "line"), PYTHON)
def test_the_script_is_there(where, line):
    words = shlex.split(line)
    if not words[1].startswith("-"):
        assert (ROOT / words[1]).is_file()


@pytest.mark.parametrize("path", SHOWN_IN[: -len(list(ROOT.glob("configs/*.py")))])
def test_links_lead_to_files(path):
    for link in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert "://" in link or (path.parent / link).exists(), link

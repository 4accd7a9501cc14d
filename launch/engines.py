"""The engines, and what is the same for all: showing, writing and submitting rendered files."""

import pathlib
import shutil
import subprocess
from typing import Protocol

from unijax.core.errors import UserError
from unijax.core.files import atomic_file
from unijax.launch import gke, local, sky, slurm, tpu
from unijax.launch.shell import quoted
from unijax.launch.spec import Launch, expand

RUNS = "runs.txt"  # name of the run, tab, command


class Engine(Protocol):
    """A module that knows one engine.

    Attributes:
      PROGRAM: that must be on the path to submit.
    """

    PROGRAM: str

    def render(self, launch: Launch) -> dict[str, str]: ...

    def commands(self, launch: Launch, folder: pathlib.Path) -> list[list[str]]: ...


ENGINES: dict[str, Engine] = {"local": local, "slurm": slurm, "gke": gke, "tpu": tpu, "sky": sky}


def render(launch: Launch, engine: str) -> dict[str, str]:
    """The engine's files, and the list of runs.

    Raises:
      UserError: for what the engine cannot do or was not told.
    """
    lines = [f"{run.name}\t{quoted(run.argv)}\n" for run in expand(launch)]
    return ENGINES[engine].render(launch) | {RUNS: "".join(lines)}


def show(launch: Launch, engine: str, folder: pathlib.Path) -> str:
    """What would be written, and what would be called then."""
    files = render(launch, engine)
    parts = [f"==> {folder / name} <==\n{text}" for name, text in files.items()]
    calls = [f"$ {quoted(argv)}\n" for argv in ENGINES[engine].commands(launch, folder)]
    return "\n".join(parts) + "\n" + "".join(calls)


def submit(launch: Launch, engine: str, folder: pathlib.Path) -> int:
    """Writes the files and calls the engine. Returns the first exit status other than 0, or 0.

    Raises:
      UserError: if the engine's program is not here, or the folder cannot be written.
    """
    files = render(launch, engine)
    program = ENGINES[engine].PROGRAM
    if shutil.which(program) is None:
        raise UserError(
            f"--engine {engine}",
            f"no program {program!r} on this machine",
            f"{program}, which submits",
            "Call it where that is installed, or look at the files with --dry-run.",
        )
    for name, text in files.items():
        with atomic_file(folder / name) as temporary:
            temporary.write_text(text)
    for argv in ENGINES[engine].commands(launch, folder):
        status = subprocess.run(argv).returncode
        if status:
            return status
    return 0

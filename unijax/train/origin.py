"""Where the parameters of a run came from: what its first checkpoint was, its stages, its licences.

A run directory holds `origin/`: `origin.json` and the licences of the checkpoint that was imported.
A run that starts from another carries them on, so that an export can say what it is.
"""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Iterable

from unijax.core.errors import UserError
from unijax.core.files import atomic_directory, discard
from unijax.core.json_files import read_object
from unijax.train import checkpoint

FOLDER = "origin"
_FILE = "origin.json"


@dataclasses.dataclass(frozen=True)
class Origin:
    """What came before a run.

    Attributes:
      history: one JSON object for an import (`imported`: what it was called) or for each stage
        (`stage`, `step`, `sources`), in order.
      licence: fields of a model card: `license`, `license_name`, `license_link`; may be empty.
      files: texts of licences.
    """

    history: tuple[dict, ...] = ()
    licence: dict[str, str] = dataclasses.field(default_factory=dict)
    files: tuple[pathlib.Path, ...] = ()


def is_written(run_dir: str | pathlib.Path) -> bool:
    """Whether the directory says where its parameters came from."""
    return (pathlib.Path(run_dir) / FOLDER / _FILE).is_file()


def read(run_dir: str | pathlib.Path) -> Origin:
    """Of a run directory; empty where nothing came before."""
    folder = pathlib.Path(run_dir) / FOLDER
    if not (folder / _FILE).is_file():
        return Origin()
    content = read_object(folder / _FILE)
    history, licence = content.get("history"), content.get("licence")
    if not isinstance(history, list) or not isinstance(licence, dict):
        expected = "`history`, a list, and `licence`, an object"
        raise UserError(str(folder / _FILE), "other fields", expected, "Restore it, or remove it.")
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.name != _FILE)
    return Origin(tuple(history), licence, tuple(files))


def write(run_dir: str | pathlib.Path, origin: Origin) -> None:
    """Writes it, its licences copied. There must be none yet."""
    content = {"history": list(origin.history), "licence": origin.licence}
    text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
    if not is_written(run_dir):
        discard(pathlib.Path(run_dir) / FOLDER)  # of a release that wrote it file by file
    with atomic_directory(pathlib.Path(run_dir) / FOLDER) as folder:
        for file in origin.files:
            shutil.copyfile(file, folder / file.name)
        (folder / _FILE).write_text(text, encoding="utf-8")


def carry(init_from: str | pathlib.Path, run_dir: str | pathlib.Path) -> None:
    """The origin of a run that starts from another: the other's, and the other itself."""
    before = read(checkpoint.step_directory(init_from).parent.parent)
    run = checkpoint.read_run(init_from)
    history = before.history
    if run["stage"] != "import":
        history = (*history, describe(run))
    write(run_dir, dataclasses.replace(before, history=history))


def describe(run: dict) -> dict:
    """A stage, from what a checkpoint records: its name, its steps, its sources of data."""
    data = run["config"].get("data") or {}
    groups = data.get("groups") or ()
    sources = [s for g in groups for s in g.get("sources") or ()] + list(data.get("sources") or ())
    return {
        "stage": run["stage"],
        "step": run.get("step", 0),
        "reproduces": run["config"].get("reproduces", ""),
        "sources": sorted(_names(sources)),
    }


def _names(sources: Iterable[dict]) -> set[str]:
    """Datasets by name, files of users' without their folders."""
    return {pathlib.PurePath(s.get("path") or s.get("name", "")).name for s in sources}

"""`unijax launch`: reads a launch file, checks every run that it stands for, and hands it over."""

import importlib.util
import pathlib
from collections.abc import Sequence
from typing import Any

import yaml

from unijax.core.errors import UserError
from unijax.core.record import build, to_json
from unijax.launch import engines
from unijax.launch.spec import FOLDER, Launch, Run, expand
from unijax.main import cli
from unijax.main.config import load as load_config
from unijax.main.config import override


def load(path: str, changes: Sequence[str] = ()) -> Launch:
    """The launch of a YAML file, or of a Python file whose `get_launch()` returns the same keys.

    Args:
      changes: `key=value`, of any key.

    Raises:
      UserError: for a wrong file, key, type or value, or a command that the trainer refuses.
    """
    values = _values(pathlib.Path(path))
    try:
        return build_launch(values, changes)
    except UserError as e:
        raise UserError(f"{path}: {e.where}".rstrip(": "), e.found, e.expected, e.fix) from None


def build_launch(values: Any, changes: Sequence[str] = ()) -> Launch:
    """As `load`, from the keys and values of a file."""
    if not changes:
        return build(Launch, values, "")
    try:
        whole = to_json(build(Launch, values, ""))
    except UserError:  # which a change may mend; a key that is not there it does not
        whole = dict(values) if isinstance(values, dict) else values
    for text in changes:
        override(whole, text)
    return build(Launch, whole, "")


def _values(path: pathlib.Path) -> Any:
    if not path.is_file():
        raise UserError(str(path), "no such file", "a YAML or Python file", "See docs/launch.md.")
    if path.suffix == ".py":
        spec = importlib.util.spec_from_file_location("unijax_launch", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.get_launch()
    try:
        return yaml.safe_load(path.read_text())
    except yaml.YAMLError as e:
        raise UserError(
            str(path), f"what is no YAML ({' '.join(str(e).split())})", "YAML", "Correct it."
        ) from e


def check(runs: Sequence[Run]) -> None:
    """Resolves the config of every run, so that no mistake waits in a queue.

    Raises:
      UserError: naming the run.
    """
    from unijax.main.run import resolve  # and with it all of JAX

    for run in runs:
        program, *arguments = run.argv
        if program != "unijax":
            continue
        args = cli.parse(arguments)
        if "config" not in args:
            continue
        try:
            resolve(load_config(args.config), args.overrides)
        except UserError as e:
            raise UserError(f"run {run.name}: {e.where}", e.found, e.expected, e.fix) from e


def start(path: str, changes: Sequence[str], engine: str, out: str | None, dry_run: bool) -> int:
    """Shows the rendered files, or writes and submits them. Returns the engine's exit status.

    Args:
      out: folder of the files; None is `launch` in the launch's directory, or where that is of a
        bucket, `launch-NAME` here.
    """
    described = load(path, changes)
    check(expand(described))
    usual = f"{FOLDER}-{described.name}" if described.in_bucket else described.place(FOLDER)
    folder = pathlib.Path(out or usual)
    if dry_run:
        print(engines.show(described, engine, folder))
        return 0
    return engines.submit(described, engine, folder)

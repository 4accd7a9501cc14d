"""Configs: a Python file's ConfigDict, then dataclasses, with overrides from the command line.

This is the only place that knows `ConfigDict`. A config file defines `get_config(arg)`, which
returns a locked `ConfigDict` whose nesting mirrors the dataclasses; what it leaves out takes the
default of the dataclass. `core.record.build` checks names and types once.
"""

import difflib
import importlib.util
import pathlib
from typing import Any

from ml_collections import ConfigDict

from unijax.core.errors import UserError
from unijax.core.paths import configs_dir
from unijax.core.record import unknown_key


def load(spec: str, function: str = "get_config") -> ConfigDict:
    """The config of `path/to/config.py` or `path/to/config.py:argument`.

    Args:
      spec: names a file, or one of those that are shipped: `janus_demo`, `configs/janus_demo.py`.
      function: of the file; it takes the argument.

    Raises:
      UserError: if there is no such file or function, or it does not know the argument.
    """
    path, _, argument = spec.partition(":")
    file = _file(spec, path)
    if file.suffix != ".py":
        raise UserError(f"--config {spec}", f"{file}", "a Python file (.py)", "Correct the path.")
    module_spec = importlib.util.spec_from_file_location("unijax_config", file)
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except SyntaxError as e:
        where = f"{e.filename}:{e.lineno}"
        raise UserError(where, f"{e.msg}", "a Python file", "Correct it.") from None
    if not hasattr(module, function):
        raise UserError(f"--config {spec}", f"no function {function}", "one", "Add it to the file.")
    get = getattr(module, function)
    try:
        return get(argument) if argument else get()
    except (KeyError, ValueError) as e:
        if isinstance(e, UserError):
            raise
        raise UserError(
            f"--config {spec}",
            f"argument {argument!r} ({e})",
            f"one that {function} takes",
            f"The first lines of {path} name them.",
        ) from e


def _file(spec: str, path: str) -> pathlib.Path:
    if (file := pathlib.Path(path)).is_file():
        return file
    shipped = {file.stem: file for file in sorted(configs_dir().glob("*.py"))}
    a_name = file.parent.as_posix() in (".", "configs") and file.suffix in ("", ".py")
    if a_name and file.stem in shipped:
        return shipped[file.stem]
    near = difflib.get_close_matches(file.stem, shipped, 1)
    fix = f"Did you mean {near[0]}?" if near else "Correct the path."
    raise UserError(
        f"--config {spec}", f"no file {path!r}",
        f"a Python config file, or one that is shipped ({', '.join(shipped)})", fix,
    )  # fmt: skip


def override(values: dict, text: str) -> None:
    """Applies `key.subkey=value` to nested plain values (`to_json` of a whole config), in place.

    Raises:
      UserError: for a key that is not there or a value of another type.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(
            f"override {text!r}", "no '='", "key.subkey=value", "Write for example stage.steps=100."
        )
    node: Any = values
    *parents, leaf = key.split(".")
    for i, name in enumerate(parents):
        node = _child(node, name, ".".join(parents[: i + 1]))
    new = _parse(value, _child(node, leaf, key), key)
    node[int(leaf) if isinstance(node, list) else leaf] = new


def _child(node: Any, name: str, path: str) -> Any:
    if isinstance(node, list) and name.isdigit() and int(name) < len(node):
        return node[int(name)]
    if isinstance(node, dict) and name in node:
        return node[name]
    known = list(node) if isinstance(node, dict) else [str(i) for i in range(len(node or ()))]
    raise unknown_key(path, name, known)


def _parse(value: str, old: Any, key: str) -> Any:
    try:
        if isinstance(old, bool):
            return {"true": True, "false": False}[value.lower()]
        if isinstance(old, int):
            return int(value)
        if isinstance(old, float):
            return float(value)
        if isinstance(old, list) and not (old and isinstance(old[0], dict)):
            return [_parse(v, old[0], key) if old else v for v in value.split(",") if v]
    except (KeyError, ValueError):
        raise UserError(
            key, repr(value), f"a value of type {type(old).__name__}, as {old!r} is", "Correct it."
        ) from None
    if isinstance(old, ConfigDict | dict):
        raise UserError(
            key, repr(value), "a single value, not a group", "Override one of its keys."
        )
    return value

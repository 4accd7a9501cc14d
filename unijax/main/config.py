"""Configs: a Python file's ConfigDict, then dataclasses, with overrides from the command line.

This is the only place that knows `ConfigDict`. A config file defines `get_config(arg)`, which
returns a locked `ConfigDict` whose nesting mirrors the dataclasses; what it leaves out takes the
default of the dataclass. `build` checks names and types once.
"""

import dataclasses
import difflib
import importlib.util
import pathlib
import types
import typing
from typing import Any

from ml_collections import ConfigDict

from unijax.core.errors import UserError
from unijax.core.record import is_silent


def load(spec: str, function: str = "get_config") -> ConfigDict:
    """The config of `path/to/config.py` or `path/to/config.py:argument`.

    Args:
      function: of the file; it takes the argument.

    Raises:
      UserError: if there is no such file or function, or it does not know the argument.
    """
    path, _, argument = spec.partition(":")
    file = pathlib.Path(path)
    if not file.is_file():
        raise UserError(
            f"--config {spec}", f"no file {path!r}", "a Python config file", "See configs/."
        )
    module_spec = importlib.util.spec_from_file_location("unijax_config", file)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
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


def unknown_key(where: str, name: str, known: list[str]) -> UserError:
    """An error that names the nearest right key."""
    near = difflib.get_close_matches(name, known, 1)
    advice = f"Did you mean {near[0]!r}?" if near else "Correct the key."
    return UserError(where, f"unknown key {name!r}", f"one of {sorted(known)}", advice)


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


def build(cls: type, values: Any, where: str) -> Any:
    """An instance of the dataclass `cls` from nested mappings, names and types checked.

    Raises:
      UserError: naming the key, with the nearest right name for a wrong one.
    """
    if not isinstance(values, ConfigDict | dict):
        raise UserError(where, repr(values), f"a group of keys ({cls.__name__})", "Correct it.")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    out = {}
    for name in values:
        if name not in fields:
            raise unknown_key(where, name, list(fields))
        out[name] = _convert(hints[name], values[name], f"{where}.{name}" if where else name)
    required = [
        n
        for n, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing := [n for n in required if n not in out]:
        raise UserError(where, f"no {missing}", f"every key of {cls.__name__} without a default",
                        "Add them to the config.")  # fmt: skip
    return cls(**out)


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        (hint,) = [a for a in args if a is not type(None)]
        return _convert(hint, value, where)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _wrong_type(where, value, "a list")
        return tuple(_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, ConfigDict | dict):
            raise _wrong_type(where, value, "a group of named entries")
        return {k: _convert(args[1], value[k], f"{where}.{k}") for k in value}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool):
        if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
            raise _wrong_type(where, value, hint.__name__)
        return value
    assert hint is Any, (where, hint)
    return value


def _wrong_type(where: str, value: Any, expected: str) -> UserError:
    return UserError(
        where, f"{value!r} of type {type(value).__name__}", expected, "Correct the config."
    )


def to_json(value: Any, whole: bool = False) -> Any:
    """A dataclass, nested, as plain JSON values: what checkpoints record.

    Args:
      whole: with the fields that a record leaves out (`core.record`).
    """
    if dataclasses.is_dataclass(value):
        fields = {f: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        return {
            f.name: to_json(x, whole) for f, x in fields.items() if whole or not is_silent(f, x)
        }
    if isinstance(value, dict):
        return {k: to_json(v, whole) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(v, whole) for v in value]
    return value

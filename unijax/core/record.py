"""Configs on record: nested dataclasses as JSON and back, names and types checked.

A field that came when runs were on record already is `added`.
"""

import dataclasses
import difflib
import math
import types
import typing
from typing import Any

from unijax.core.errors import UserError
from unijax.core.json_files import quoted


def added(default: Any, repr: bool = True) -> Any:
    """Such a field, left out of a record where it has this value: as if it had never come.

    So the names of runs, which are made of their records, stay what they were, and a run goes on
    from checkpoints that know nothing of the field. Without `repr` it is no part of the fingerprint
    of data either.
    """
    return dataclasses.field(default=default, metadata={"added": True}, repr=repr)


def is_silent(field: dataclasses.Field, value: Any) -> bool:
    """Whether a record leaves out the field when it has this value."""
    return "added" in field.metadata and value == field.default


def unknown_key(where: str, name: str, known: list[str]) -> UserError:
    """An error that names the nearest right key."""
    near = difflib.get_close_matches(name, known, 1)
    advice = f"Did you mean {near[0]!r}?" if near else "Correct the key."
    return UserError(where, f"unknown key {quoted(name)}", f"one of {sorted(known)}", advice)


def build(cls: type, values: Any, where: str) -> Any:
    """An instance of the dataclass `cls` from nested mappings, names and types checked.

    Raises:
      UserError: naming the key, with the nearest right name for a wrong one.
    """
    if not _is_group(values):
        raise UserError(where, quoted(values), f"a group of keys ({cls.__name__})", "Correct it.")
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
        hints = [a for a in args if a is not type(None)]
        hint = hints[0] if len(hints) == 1 else _of_kind(hints, value, where)
        return _convert(hint, value, where)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _wrong_type(where, value, "a list")
        return tuple(_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not _is_group(value):
            raise _wrong_type(where, value, "a group of named entries")
        return {k: _convert(args[1], value[k], f"{where}.{k}") for k in value}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(where, f"{value}", "a finite number", "Correct the config.")
    if hint in (int, float, str, bool):
        if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
            raise _wrong_type(where, value, hint.__name__)
        return value
    assert hint is Any, (where, hint)
    return value


def _of_kind(classes: list[type], value: Any, where: str) -> type:
    """Which of several dataclasses a group of keys means: by its `kind`, the first without one."""
    if not _is_group(value):
        raise UserError(where, quoted(value), "a group of keys", "Correct it.")
    by_kind = {cls.kind: cls for cls in classes}
    kind = value.get("kind", classes[0].kind)
    if kind not in by_kind:
        raise UserError(f"{where}.kind", quoted(kind), f"one of {[*by_kind]}", "Correct it.")
    return by_kind[kind]


def _wrong_type(where: str, value: Any, expected: str) -> UserError:
    return UserError(
        where, f"{quoted(value)} of type {type(value).__name__}", expected, "Correct the config."
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


def _is_group(value: Any) -> bool:
    """Whether it has values by name: a dict, or a config of a library that is none."""
    return hasattr(value, "keys")

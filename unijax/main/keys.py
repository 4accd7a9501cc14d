"""`unijax config --help-keys`: every key of a config, with its type, its default and what it is.

Read from the dataclasses and their docstrings, so that it cannot be out of date.
"""

import dataclasses
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Any

from unijax.core.record import unknown_key
from unijax.main.run import DATA, RunConfig
from unijax.systems.registry import recipe


def keys(system: str, under: str = "") -> str:
    """A line for every key, below `under` alone where it is given, then what it is.

    Args:
      system: whose sizes and data are told.

    Raises:
      UserError: for an unknown system or key.
    """
    of = recipe(system)
    known = {"model": of.config, "data": DATA[of.eats]}
    found = dict(_keys(RunConfig, "", known))
    chosen = {k: v for k, v in found.items() if not under or f"{k}.".startswith(f"{under}.")}
    if not chosen:
        raise unknown_key("unijax config --help-keys", under, list(found))
    lines = []
    for key, (kind, default, text) in chosen.items():
        lines.append(f"{key}  {kind}{default}")
        lines += textwrap.wrap(text, 92, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def _keys(cls: type, prefix: str, known: dict[str, type]) -> Iterator[tuple[str, tuple]]:
    hints, texts = typing.get_type_hints(cls), attributes(cls)
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        key, text = f"{prefix}{field.name}", texts.get(field.name, "")
        hint = known.get(key, hints[field.name])
        yield key, (_kind(hint), _default(field), text)
        inside, step = _inside(hint)
        if dataclasses.is_dataclass(inside):
            yield from _keys(inside, f"{key}{step}.", known)


def _inside(hint: Any) -> tuple[Any, str]:
    """The dataclass in a type, and how its place in a list or a group is written."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return next((a for a in args if a is not type(None)), None), ""
    if origin is tuple:
        return args[0], ".0"
    if origin is dict:
        return args[1], ".NAME"
    return hint, ""


def _kind(hint: Any) -> str:
    inside, step = _inside(hint)
    name = inside.__name__ if isinstance(inside, type) else str(inside).removeprefix("typing.")
    if dataclasses.is_dataclass(inside):
        name = "group"
    return {"": name, ".0": f"list of {name}", ".NAME": f"{name} by name"}[step]


def _default(field: dataclasses.Field) -> str:
    if field.default is not dataclasses.MISSING:
        return f" = {field.default!r}"
    return "" if field.default_factory is not dataclasses.MISSING else ", required"


def attributes(cls: type) -> dict[str, str]:
    """What the docstring of a dataclass, and of those it is made of, says of each attribute."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        _, _, section = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")
        section = re.split(r"\n(?=\S)", section)[0]
        for entry in re.split(r"\n(?= {2}\S)", section):
            names, colon, text = entry.strip().partition(":")
            if colon:
                found |= dict.fromkeys(re.split(r",\s*", names), " ".join(text.split()))
    return found

"""Foreign forms by the system's name: the modules of `systems`, and those that others register.

Another package registers one as an entry point of the group `unijax.interop`, called as its system,
whose value is an `interface.Interop`. A module is loaded when it is asked for.
"""

import functools
import importlib
import pathlib
import pkgutil
from typing import Any

from unijax.core import plugins
from unijax.core.errors import UserError
from unijax.core.json_files import quoted, read_object
from unijax.interop import systems
from unijax.interop.interface import Format, Interop, Part
from unijax.systems.registry import recipe

GROUP = "unijax.interop"
_OWN = frozenset(module.name for module in pkgutil.iter_modules(systems.__path__))


def names() -> list[str]:
    """Of the systems that have foreign forms."""
    return sorted({*_OWN, *plugins.registered(GROUP)})


@functools.cache
def interop(name: str) -> Interop:
    """The foreign forms of a system.

    Raises:
      UserError: for an unknown system, one that has none, or a registered module that is not one.
    """
    if name in _OWN:
        return importlib.import_module(f"{systems.__name__}.{name}").INTEROP
    recipe(name)  # whether there is such a system at all
    if name not in plugins.registered(GROUP):
        raise UserError(
            f"system {name!r}", "no foreign format of it", f"one of {names()}",
            f"Its package can register one as an entry point of the group {GROUP!r} "
            "(docs/adding-a-system.md).",
        )  # fmt: skip
    return plugins.load(GROUP, name, "formats of the system", Interop)


def format_of(of: Interop, name: str | None, config: Any) -> Format:
    """A format of a system by name; without one the first that can say the config.

    Raises:
      UserError: for an unknown one, or one for other models.
    """
    known = {f.name: f for f in of.formats}
    if name is not None and name not in known:
        raise UserError(
            "--format", repr(name), f"one of {list(known)}, which the system {of.system!r} has",
            "Correct it.",
        )  # fmt: skip
    fitting = [f for f in of.formats if f.fits(config)]
    found = [f for f in fitting if name in (None, f.name)]
    if not found:
        raise UserError(
            f"formats of the system {of.system!r}", f"{name or 'none'} for this model",
            f"one of {[f.name for f in fitting]}" if fitting else "one that can say it",
            "Correct --format." if fitting else "This model cannot be exported.",
        )  # fmt: skip
    return found[0]


def part_of(of: Interop, name: str) -> Part:
    """A part of a system by name. Raises UserError for an unknown one."""
    known = {part.name: part for part in of.parts}
    if name not in known:
        forms = ", ".join(f"--part {p.name}={p.kind}" for p in of.parts) or "no part"
        raise UserError(
            f"--part {name}", f"no part {name!r} of the system {of.system!r}", forms, "Correct it."
        )
    return known[name]


def recognize(directory: pathlib.Path, system: str | None = None) -> tuple[Interop, Format]:
    """The format that a model directory is in.

    Args:
      system: of which it should be, where it could be of several: a tower alone.

    Raises:
      UserError: if it is in none.
    """
    for of in map(interop, sorted(names(), key=lambda name: name != system)):
        for format in of.formats:
            if format.matches(directory):
                return of, format
    kinds = sorted(f.kind for of in map(interop, names()) for f in of.formats if f.whole)
    path = directory / "config.json"
    found = "no config.json"
    if path.exists():
        found = f"model_type {quoted(read_object(path).get('model_type'))}"
    raise UserError(
        str(directory), found, f"one of {kinds}",
        "Parts of a model are imported with --part NAME=PATH.",
    )  # fmt: skip

"""Systems by name: those of this package, and those that other packages register.

Another package registers one as an entry point of the group `unijax.systems`, whose value is a
`core.system.Recipe`; docs/adding-a-system.md shows how. A module is loaded when it is asked for.
"""

import difflib
import functools
import importlib
import importlib.metadata

from unijax.core.errors import UserError
from unijax.core.ladder import Ladder
from unijax.core.system import Recipe

GROUP = "unijax.systems"
_OWN = {
    "chameleon": "unijax.systems.chameleon",
    "classification": "unijax.systems.classification",
    "contrastive": "unijax.systems.contrastive",
    "lmfusion": "unijax.systems.lmfusion",
    "janus": "unijax.systems.janus",
    "mim": "unijax.systems.mim",
    "tokenizer": "unijax.systems.tokenizer",
    "transfusion": "unijax.systems.transfusion",
}


@functools.cache
def _registered() -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}


def names() -> list[str]:
    """Of all systems that can be asked for."""
    return sorted({*_OWN, *_registered()})


@functools.cache
def recipe(name: str) -> Recipe:
    """The recipe of a system.

    Raises:
      UserError: for an unknown name, with the nearest right one, or a registered module that does
        not give a recipe.
    """
    if name in _OWN:
        return importlib.import_module(_OWN[name]).RECIPE
    if name not in _registered():
        near = difflib.get_close_matches(name, names(), 1)
        advice = f"Did you mean {near[0]!r}?" if near else "Correct it."
        raise UserError("system", f"unknown system {name!r}", f"one of {names()}", advice)
    point = _registered()[name]
    where = f"system {name!r} ({point.value})"
    try:
        found = point.load()
    except (ImportError, AttributeError) as e:
        raise UserError(
            where, f"{e}", "a module that can be imported", "Install its package again."
        ) from e
    if not isinstance(found, Recipe):
        raise UserError(
            where, f"a {type(found).__name__}", "a unijax.core.system.Recipe", "Correct its setup."
        )
    return found


@functools.cache
def ladders() -> dict[str, Ladder]:
    """Of all systems, by name."""
    found: dict[str, Ladder] = {}
    for name in names():
        if place := recipe(name).ladders:
            module, _, attribute = place.partition(":")
            found |= getattr(importlib.import_module(module), attribute)
    return found

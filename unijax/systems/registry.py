"""Systems by name: those of this package, and those that other packages register.

Another package registers one as an entry point of the group `unijax.systems`, whose value is a
`core.system.Recipe`; docs/adding-a-system.md shows how. A module is loaded when it is asked for.
"""

import difflib
import functools
import importlib

from unijax.core import plugins
from unijax.core.errors import UserError
from unijax.core.ladder import Ladder
from unijax.core.system import Recipe

GROUP = "unijax.systems"
_OWN = {
    "chameleon": "unijax.systems.chameleon",
    "classification": "unijax.systems.classification",
    "contrastive": "unijax.systems.contrastive",
    "emu": "unijax.systems.emu",
    "llava": "unijax.systems.llava",
    "llavafusion": "unijax.systems.llavafusion",
    "lmfusion": "unijax.systems.lmfusion",
    "metaquery": "unijax.systems.metaquery",
    "janus": "unijax.systems.janus",
    "metamorph": "unijax.systems.metamorph",
    "mim": "unijax.systems.mim",
    "tokenizer": "unijax.systems.tokenizer",
    "transfusion": "unijax.systems.transfusion",
    "visualiser": "unijax.systems.visualiser",
}


def names() -> list[str]:
    """Of all systems that can be asked for."""
    return sorted({*_OWN, *plugins.registered(GROUP)})


@functools.cache
def recipe(name: str) -> Recipe:
    """The recipe of a system.

    Raises:
      UserError: for an unknown name, with the nearest right one, or a registered module that does
        not give a recipe.
    """
    if name in _OWN:
        return importlib.import_module(_OWN[name]).RECIPE
    if name not in plugins.registered(GROUP):
        near = difflib.get_close_matches(name, names(), 1)
        advice = f"Did you mean {near[0]!r}?" if near else "Correct it."
        raise UserError("system", f"unknown system {name!r}", f"one of {names()}", advice)
    return plugins.load(GROUP, name, "system", Recipe)


@functools.cache
def ladders() -> dict[str, Ladder]:
    """Of all systems, by name."""
    found: dict[str, Ladder] = {}
    for name in names():
        if place := recipe(name).ladders:
            module, _, attribute = place.partition(":")
            found |= getattr(importlib.import_module(module), attribute)
    return found

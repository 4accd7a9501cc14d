"""Systems by name: this package's, and those that others register as entry points."""

import importlib.metadata
import sys
import types

import pytest

from unijax.core import plugins
from unijax.core.errors import UserError
from unijax.core.system import Recipe, RowSystem, System
from unijax.systems import registry
from unijax.systems.registry import recipe


@pytest.fixture
def register(monkeypatch):
    """Registers `name = value` as another package would, and forgets it again."""

    def add(**values):
        points = [
            importlib.metadata.EntryPoint(name, value, registry.GROUP)
            for name, value in values.items()
        ]
        found = lambda group: importlib.metadata.EntryPoints(points).select(group=group)  # noqa: E731
        monkeypatch.setattr(importlib.metadata, "entry_points", found)
        plugins.registered.cache_clear()
        recipe.cache_clear()

    yield add
    monkeypatch.undo()
    plugins.registered.cache_clear()
    recipe.cache_clear()


@pytest.mark.parametrize("name", sorted(registry._OWN))
def test_what_is_known_by_a_name_has_it(name):
    found = recipe(name)
    assert found.name == name
    assert isinstance(found, Recipe)
    assert recipe(name) is found
    expected = RowSystem if found.eats == "rows" else System
    members = {m for m in vars(expected) if not m.startswith("_")} | {*expected.__annotations__}
    assert not [m for m in members if not hasattr(found.system, m)]


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UserError) as error:
        recipe("tokeniser")
    said = str(error.value)
    assert said.startswith("system: found unknown system 'tokeniser'; expected one of [")
    assert said.endswith("Did you mean 'tokenizer'?")
    with pytest.raises(UserError, match=r"'xyz'; expected one of .*\. Correct it\."):
        recipe("xyz")


def test_another_packages_recipe_is_found_by_its_name(register, monkeypatch):
    own = recipe("janus")
    module = types.ModuleType("of_another_package")
    module.RECIPE = Recipe("theirs", own.system, own.config, "rows")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    register(theirs="of_another_package:RECIPE")
    assert "theirs" in registry.names()
    assert recipe("theirs") is module.RECIPE
    assert recipe("janus") is own
    with pytest.raises(UserError, match="Did you mean 'theirs'"):
        recipe("their")


def test_another_package_does_not_take_a_name_of_this_one(register):
    own = recipe("janus")
    register(janus="no_such_module:RECIPE")
    assert recipe("janus") is own


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no_such_module:RECIPE", r"system 'theirs' \(no_such_module:RECIPE\): found No module"),
        ("unijax.systems.janus:RECIPES", r"found module .* has no attribute 'RECIPES'"),
        ("unijax.systems.janus:Janus", r"found a type; expected a unijax.core.system.Recipe"),
    ],
)
def test_a_broken_entry_point_is_told(register, value, message):
    register(theirs=value)
    with pytest.raises(UserError, match=message):
        recipe("theirs")


def test_others_that_are_broken_do_not_hinder(register):
    register(theirs="no_such_module:RECIPE")
    assert recipe("tokenizer").name == "tokenizer"
    assert "theirs" in registry.names()


def test_a_recipe_eats_rows_or_pictures():
    own = recipe("janus")
    with pytest.raises(AssertionError, match="rwos"):
        Recipe("theirs", own.system, own.config, "rwos")

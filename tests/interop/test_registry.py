"""Foreign forms by the system's name, those of other packages too."""

import pathlib
import re

import pytest

from unijax.core import plugins
from unijax.core.errors import UserError
from unijax.interop import registry
from unijax.systems import registry as systems

ROOT = pathlib.Path(registry.__file__).parent


def test_every_system_of_this_package_has_some():
    for name in systems._OWN:
        of = registry.interop(name)
        assert of.system == name
        assert of.formats


def test_what_is_common_knows_no_system():
    own = ("unijax.interop.systems.", *systems._OWN.values())
    for file in ROOT.glob("*.py"):
        names = re.findall(r"^\s*(?:from|import) (\S+)", file.read_text(), re.MULTILINE)
        found = [name for name in names if name.startswith(own)]
        assert not found, (file.name, found)


@pytest.fixture
def registered(monkeypatch):
    """As if another package had registered a value for the system `ink`."""

    def register(value):
        point = type("Point", (), {"value": "ink:INTEROP", "load": lambda self: value})()
        monkeypatch.setattr(plugins, "registered", lambda group: {"ink": point})
        monkeypatch.setattr(registry, "recipe", lambda name: None)
        registry.interop.cache_clear()

    yield register
    registry.interop.cache_clear()


def test_other_packages_bring_their_own(registered):
    registered(registry.interop("contrastive"))
    assert registry.interop("ink").formats
    assert "ink" in registry.names()


def test_a_registered_value_that_is_none_is_named(registered):
    registered(3)
    with pytest.raises(UserError, match=r"system 'ink' \(ink:INTEROP\): found a int"):
        registry.interop("ink")


def test_a_system_without_any_is_told(monkeypatch):
    monkeypatch.setattr(registry, "recipe", lambda name: None)
    with pytest.raises(UserError) as error:
        registry.interop("ink")
    assert "system 'ink': found no foreign format of it; expected one of" in str(error.value)
    assert "entry point of the group 'unijax.interop'" in str(error.value)


def test_an_unknown_system_is_told_with_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'janus'"):
        registry.interop("januss")

"""jaxtyping's words, for machines that have no jaxtyping.

In annotations they say shapes to people, and are checked in tests; nothing that runs asks for them.
"""

import importlib.util
import sys
import types


class _Word:
    """`Float[Array, "B T"]`, and whatever else stands in brackets, is the word itself."""

    def __class_getitem__(cls, item: object) -> type:
        return cls


class _Words(types.ModuleType):
    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Word


def ensure() -> None:
    """Puts the words in place where the package is not installed. Before unijax is imported."""
    if importlib.util.find_spec("jaxtyping") is None:
        sys.modules["jaxtyping"] = _Words("jaxtyping")

"""What other packages register here: an entry point each, under a group of ours."""

import functools
import importlib.metadata
from typing import TypeVar

from unijax.core.errors import UserError

T = TypeVar("T")


@functools.cache
def registered(group: str) -> dict[str, importlib.metadata.EntryPoint]:
    """The entry points of a group, by name."""
    return {point.name: point for point in importlib.metadata.entry_points(group=group)}


def load(group: str, name: str, what: str, kind: type[T]) -> T:
    """The value of a registered entry point.

    Args:
      what: it is, in messages.
      kind: that it has to be of.

    Raises:
      UserError: if it cannot be imported, or is of another kind.
    """
    point = registered(group)[name]
    where = f"{what} {name!r} ({point.value})"
    try:
        found = point.load()
    except (ImportError, AttributeError) as e:
        raise UserError(
            where, f"{e}", "a module that can be imported", "Install its package again."
        ) from e
    if not isinstance(found, kind):
        raise UserError(
            where, f"a {type(found).__name__}", f"a {kind.__module__}.{kind.__name__}",
            "Correct its setup.",
        )  # fmt: skip
    return found

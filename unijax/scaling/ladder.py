"""The ladders of all systems, by name."""

from unijax.core.errors import UserError
from unijax.core.ladder import Ladder, Rung
from unijax.systems import registry


def _ladder(name: str) -> Ladder:
    """Raises UserError for one that is not there."""
    known = registry.ladders()
    if name not in known:
        raise UserError("ladder", repr(name), f"one of {sorted(known)}", "Choose one.")
    return known[name]


def rung(name: str, width: int) -> Rung:
    """The model of a ladder at a width.

    Raises:
      UserError: for a ladder or a width that is not there.
    """
    found = _ladder(name)
    if found.multiple:
        if width < found.multiple or width % found.multiple:
            expected = f"a multiple of {found.multiple}"
            raise UserError(f"{name} width", f"{width}", expected, "Change it.")
    elif width not in found.widths:
        expected = f"one of {list(found.widths)}"
        raise UserError(f"{name} width", f"{width}", expected, "Choose one.")
    return found.rung(width)


def ladder(name: str) -> list[Rung]:
    """All named rungs, from small to large."""
    found = _ladder(name)
    return [found.rung(width) for width in found.widths]

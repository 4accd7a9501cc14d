"""How TPU slices are written: a kind and the chips along every side, as v5p:4x4x8."""

import re

from unijax.core.errors import UserError

DIMS = {"v5e": 2, "v5p": 3, "v6e": 2}  # of the torus that a slice is cut from
_SIDE = 16  # of the tori of two dims


def parse(text: str, where: str) -> tuple[str, tuple[int, ...]]:
    """Kind and sides.

    Args:
      where: flag or key that it was given by.

    Raises:
      UserError: for another form, or sides that no slice has.
    """
    kind, _, sides = text.partition(":")
    dims = DIMS.get(kind)
    if dims is None or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sides):
        found, expected = repr(text), f"one of {sorted(DIMS)} and a topology"
        raise UserError(where, found, expected, "Write for example v5e:4x8 or v5p:4x4x8.")
    shape = tuple(map(int, sides.split("x")))
    if len(shape) != dims:
        like = {2: "4x8", 3: "4x4x8"}[dims]
        expected = f"{dims} sides after the colon"
        raise UserError(where, repr(text), expected, f"Write for example {kind}:{like}.")
    if dims == 2 and not all(side <= _SIDE and side & (side - 1) == 0 for side in shape):
        raise UserError(where, repr(text), "sides of 1, 2, 4, 8 or 16 chips", "Correct it.")
    return kind, shape

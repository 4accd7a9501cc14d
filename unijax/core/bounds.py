"""Bounds of a config's numbers, said in one table for each config. NaN is within none."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from unijax.core.errors import UserError


class Bound(NamedTuple):
    """Which numbers are allowed: in words, and as a function."""

    words: str
    holds: Callable[[float], bool]


NOT_NEGATIVE = Bound("a finite number, 0 or more", lambda x: 0 <= x < math.inf)
POSITIVE = Bound("a finite number, more than 0", lambda x: 0 < x < math.inf)
SHARE = Bound("a share, from 0 to 1", lambda x: 0 <= x <= 1)
BELOW_ONE = Bound("a share from 0 to below 1", lambda x: 0 <= x < 1)


def check_numbers(config: Any, where: str, bounds: Mapping[str, Bound]) -> None:
    """Raises UserError for the first field of a config, called `where`, that is out of bounds."""
    for name, bound in bounds.items():
        found = getattr(config, name)
        if not bound.holds(found):
            raise UserError(f"{where}.{name}", f"{found}", bound.words, "Correct the config.")

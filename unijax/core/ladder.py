"""Size ladders: a model for each value of one dial, the width of the decoder."""

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Rung:
    """One model of a ladder.

    Attributes:
      name: as in the paper, or by its parameters.
      recipe: name of the system.
      config: its sizes; `text` is the decoder's.
      arithmetic: how the dial made the sizes, in words.
    """

    name: str
    recipe: str
    config: Any
    arithmetic: str


@dataclasses.dataclass(frozen=True)
class Ladder:
    """Of one system.

    Attributes:
      rung: the model at a width.
      widths: those that are named.
      multiple: any multiple of it is a width too; 0 where the named ones are all.
    """

    rung: Callable[[int], Rung]
    widths: tuple[int, ...]
    multiple: int = 0


def up(value: float, multiple: int) -> int:
    """The least multiple that is no smaller."""
    return -int(-value // multiple) * multiple

"""Packing on sizes alone: which document goes into which row. No array is touched here.

Online best fit: a document goes into the open row that it leaves the least room in. Where it fits
in none and as many rows are open as may be, the fullest row is closed and a new one opened.
"""

import dataclasses
import operator
from typing import Generic, TypeVar

from unijax.data.document import Size

T = TypeVar("T")


@dataclasses.dataclass
class OpenRow(Generic[T]):
    """A row being filled: its documents in order, and what they take."""

    items: list[T]
    used: Size


class Packer(Generic[T]):
    """Puts items with sizes into rows.

    Args:
      limit: tokens and image slots of a row.
      open_rows: how many rows are filled at once; more waste less, and mix documents that are
        further apart in the stream.
    """

    def __init__(self, limit: Size, open_rows: int):
        self.limit = limit
        self.max_open = open_rows
        self.open: list[OpenRow[T]] = []  # oldest first

    def add(self, item: T, size: Size) -> list[list[T]]:
        """Places an item, which must fit in an empty row; returns the rows that this closes."""
        assert size.within(self.limit), (size, self.limit)
        closed = []
        room = tuple(map(operator.sub, self.limit.slots, size.slots))
        most = Size(self.limit.tokens - size.tokens, room)
        fitting = [row for row in self.open if row.used.within(most)]
        if fitting:
            row = max(fitting, key=_fill)
        else:
            if len(self.open) == self.max_open:
                closed.append(self._close(max(self.open, key=_fill)))
            row = OpenRow([], Size(0, (0,) * len(self.limit.slots)))
            self.open.append(row)
        row.items.append(item)
        row.used += size
        if row.used.tokens == self.limit.tokens:
            closed.append(self._close(row))
        return closed

    def _close(self, row: OpenRow[T]) -> list[T]:
        self.open = [other for other in self.open if other is not row]
        return row.items


def _fill(row: OpenRow) -> int:
    """Tokens of a row. Of equally full rows `max` takes the oldest."""
    return row.used.tokens

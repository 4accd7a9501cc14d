"""Packing on sizes alone: which document goes into which row. No array is touched here.

Online best fit: a document goes into the open row that it leaves the least room in. Where it fits
in none and as many rows are open as may be, the fullest row is closed and a new one opened.
"""

import dataclasses
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

    def add(self, item: T, size: Size) -> list[T] | None:
        """Places an item; returns the row that this closes, if it closes one.

        The item must fit in an empty row.
        """
        assert size.within(self.limit), (size, self.limit)
        best = None
        for row in self.open:
            fits = (row.used + size).within(self.limit)
            if fits and (best is None or row.used.tokens > best.used.tokens):
                best = row
        closed = None
        if best is None:
            if len(self.open) == self.max_open:
                closed = self._close(max(self.open, key=lambda row: row.used.tokens))
            best = OpenRow([], Size(0))
            self.open.append(best)
        best.items.append(item)
        best.used += size
        if closed is None and best.used.tokens == self.limit.tokens:
            closed = self._close(best)
        return closed

    def _close(self, row: OpenRow[T]) -> list[T]:
        self.open = [other for other in self.open if other is not row]
        return row.items

"""A user's records by index, and what is known of all of them without reading one."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from unijax.data.tasks import FIELDS
from unijax.data.user.record import check_task, teaches

# What tasks ask for, a bit each.
_FIELDS = (
    "image", "captions", "prompt", "questions", "messages", "drawings", "text", "parts", "label",
    "category", "keywords",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Facts:
    """Of every record, in order.

    Attributes:
      fields: which of `_FIELDS` it has, uint16.
      longest: bytes of its longest piece of text that no row may part, of texts and pages; int32.
    """

    fields: np.ndarray
    longest: np.ndarray

    def teaching(self, task: str) -> list[int]:
        """Indices of the records that a task is taught by where its config names none."""
        kinds = [mask for mask in np.unique(self.fields) if task in teaches(_names(int(mask)))]
        return np.flatnonzero(np.isin(self.fields, kinds)).tolist()

    def longer_than(self, size: int) -> list[int]:
        """Indices of the records with a text of more bytes that cannot be cut."""
        return np.flatnonzero(self.longest > size).tolist()

    def tasks(self) -> list[tuple[int, list[str]]]:
        """The first record of every kind, and the tasks that the kind teaches."""
        masks, first = np.unique(self.fields, return_index=True)
        return [(int(i), teaches(_names(int(mask)))) for i, mask in sorted(zip(first, masks))]


def _names(mask: int) -> list[str]:
    return [name for bit, name in enumerate(_FIELDS) if mask >> bit & 1]


class FactsOf:
    """Gathers facts while records are checked one after another."""

    def __init__(self):
        self._fields: list[int] = []
        self._longest: list[int] = []

    def add(self, record: dict) -> None:
        self._fields.append(sum(1 << bit for bit, name in enumerate(_FIELDS) if record.get(name)))
        self._longest.append(max(map(_size, _uncut(record)), default=0))

    def done(self) -> Facts:
        return Facts(np.array(self._fields, np.uint16), np.array(self._longest, np.int32))


def _uncut(record: dict) -> Iterable[str]:
    texts = [record["text"]] if "text" in record else []
    texts += [part["text"] for part in record.get("parts", ()) if "text" in part]
    return (piece for text in texts for piece in text.split("\n\n"))


def _size(text: str) -> int:
    return len(text.encode())


class UserRecords(Sequence):
    """Records by index, each made when it is asked for.

    Attributes:
      facts: gathered when the data was opened, and every record checked.
    """

    facts: Facts

    def check(self, task: str) -> None:
        """Raises a UserError that names the first record without what the task reads."""
        needed = sum(1 << _FIELDS.index(field) for field in FIELDS[task])
        lacking = np.flatnonzero((self.facts.fields & needed) != needed)
        if len(lacking):
            check_task(self[int(lacking[0])], task)

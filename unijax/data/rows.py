"""The stream of rows: which documents stand in which row. A function of (seed, data, config) alone.

No process count enters here: every process plans every row, on lengths, and decodes only its own.
"""

import dataclasses
import hashlib
from typing import NamedTuple

from unijax.core.errors import UserError
from unijax.core.stream import Layout
from unijax.core.telling import tell_once
from unijax.data.config import DataConfig, is_active, limit_of, phases
from unijax.data.document import Document, document_size, empty
from unijax.data.mixture import Queue, choose, whole
from unijax.data.pack import OpenRow, Packer
from unijax.data.sources import DocumentSource
from unijax.data.split import fit
from unijax.data.tasks import MAY_BE_CUT


class Placed(NamedTuple):
    """A document in a row: itself, and how to make it again."""

    document: Document
    source: str
    draw: int
    part: int


Row = list[Placed]


@dataclasses.dataclass
class Head:
    """The next documents of a source: found, but not yet in the stream."""

    parts: list[Document]
    draw: int
    tokens: int
    dropped: int  # documents passed over before it


@dataclasses.dataclass
class Reader:
    """Where a source stands. `drawn` counts records, `documents` those that gave rows something."""

    source: DocumentSource
    group: str
    queue: Queue
    drawn: int = 0
    documents: int = 0
    dropped: int = 0
    head: Head | None = None


class RowStream:
    """An endless iterator of rows, with a state that is small and plain JSON."""

    def __init__(self, config: DataConfig, layout: Layout, sources: dict[str, DocumentSource]):
        self.config, self.layout = config, layout
        self._limit = limit_of(config, layout)
        self._packer: Packer[Placed] = Packer(self._limit, config.open_rows)
        self._closed: list[Row] = []  # closed, not yet given
        self._groups: dict[str, list[Reader]] = {}
        self._group_queues: dict[str, Queue] = {}
        groups = [group for group in config.groups if group.ratio > 0]
        for group, share in zip(groups, whole([group.ratio for group in groups])):
            self._group_queues[group.name] = Queue(share)
            members = [source for source in group.sources if source.weight > 0]
            self._groups[group.name] = [
                Reader(sources[source.name], group.name, Queue(weight))
                for source, weight in zip(members, whole([s.weight for s in members]))
            ]
        self._given = 0  # rows handed out
        self._phases = phases(config)
        self._phase = 0
        self._readers = {
            reader.source.name: reader for readers in self._groups.values() for reader in readers
        }
        self._lengths = {n: reader.source.epoch_length for n, reader in self._readers.items()}
        self._fingerprint = _fingerprint(config, layout, self._lengths)

    def __iter__(self):
        return self

    def __next__(self) -> Row:
        while not self._closed:
            self._place(self.next_document())
        self._given += 1
        return self._closed.pop(0)

    def next_document(self) -> list[Placed]:
        """The next document of the mixture, in one part or several."""
        self._enter_phase()
        readers = [self._next_reader(group) for group in self._groups]
        heads = [self._head(reader) for reader in readers]
        chosen = choose(list(self._group_queues.values()), [self._cost(head) for head in heads])
        reader, head = readers[chosen], heads[chosen]
        cost = self._cost(head)
        reader.queue.served += cost
        self._group_queues[reader.group].served += cost
        reader.drawn = head.draw + 1
        reader.documents += 1
        reader.dropped += head.dropped
        reader.head = None
        name = reader.source.name
        return [Placed(document, name, head.draw, part) for part, document in enumerate(head.parts)]

    def group_of(self, source: str) -> str:
        return self._readers[source].group

    def is_repeated(self, placed: Placed) -> bool:
        """Whether the record was drawn before: in an earlier epoch of its source."""
        return placed.draw >= self._readers[placed.source].source.epoch_length

    @property
    def dropped(self) -> dict[str, int]:
        """Documents that were left out so far, by source: too long, or with nothing to learn."""
        return {name: reader.dropped for name, reader in self._readers.items()}

    def get_state(self) -> dict:
        """Counts, and rows in progress as references; a resume renders them again."""
        return {
            "fingerprint": self._fingerprint,
            "lengths": self._lengths,
            "given": self._given,
            "phase": self._phase,
            "groups": {name: queue.served for name, queue in self._group_queues.items()},
            "sources": {
                name: [reader.drawn, reader.documents, reader.queue.served, reader.dropped]
                for name, reader in self._readers.items()
            },
            "open": [_references(row.items) for row in self._packer.open],
            "closed": [_references(row) for row in self._closed],
        }

    def set_state(self, state: dict) -> None:
        """Goes to a state; one of no fingerprint (`train.schema`) is taken as it is.

        Raises:
          UserError: a state of other data or another config, whose stream would differ.
        """
        other = state["sources"].keys() ^ self._readers.keys()
        if not other and self._differs_in_records(state):
            state = self._of_other_records(state)
        if other or state["fingerprint"] not in (self._fingerprint, None):
            raise UserError(
                "data state",
                f"a state of other data ({state['fingerprint']})",
                f"one of this config and these sources ({self._fingerprint})",
                "Resume with the data config and the data that the run began with.",
            )
        self._given, self._phase = state["given"], state["phase"]
        for name, served in state["groups"].items():
            self._group_queues[name].served = served
        for name, (drawn, documents, served, dropped) in state["sources"].items():
            reader = self._readers[name]
            reader.drawn, reader.documents, reader.dropped = drawn, documents, dropped
            reader.queue.served = served
            reader.head = None
        self._packer.open = [self._open_row(references) for references in state["open"]]
        self._closed = [self._row(references) for references in state["closed"]]

    def _differs_in_records(self, state: dict) -> bool:
        """Whether nothing but the number of records is another."""
        lengths = state.get("lengths", {})
        then = _fingerprint(self.config, self.layout, {n: lengths.get(n, 0) for n in self._lengths})
        return lengths != self._lengths and state["fingerprint"] == then

    def _of_other_records(self, state: dict) -> dict:
        """The state among the records that there are now; raises a UserError where none may be."""
        before = state["lengths"]
        changed = [n for n, length in self._lengths.items() if before[n] != length]
        told = ", ".join(f"{n}: {before[n]} records, now {self._lengths[n]}" for n in changed)
        if not self.config.may_change:
            raise UserError(
                "data", f"other records than the run began with ({told})", "the same",
                "Put them back, or set data.may_change=true: then each source goes on from where "
                "it was, in the order of the records that there are now.",
            )  # fmt: skip
        rows = [*state["open"], *state["closed"]]
        lost = sum(name in changed for row in rows for name, _, _ in row)
        line = f"data has changed ({told}): it goes on in a new order"
        tell_once(line, f"{line}; {lost} documents of rows in progress are drawn later, or not")
        keep = lambda row: [r for r in row if r[0] not in changed]  # noqa: E731
        kept = {at: [row for row in map(keep, state[at]) if row] for at in ("open", "closed")}
        return state | kept | {"fingerprint": self._fingerprint}

    def _enter_phase(self) -> None:
        """Where sources come or go, shares within the groups are counted anew from here."""
        step = self._given // self.config.rows
        phase = sum(begin <= step for begin in self._phases)
        if phase != self._phase:
            self._phase = phase
            for reader in self._readers.values():
                reader.queue.served = 0

    def _active(self, reader: Reader) -> bool:
        begin = 0 if self._phase == 0 else self._phases[self._phase - 1]
        return is_active(reader.source.config, begin)

    def _next_reader(self, group: str) -> Reader:
        readers = [reader for reader in self._groups[group] if self._active(reader)]
        heads = [self._head(reader) for reader in readers]
        return readers[choose([r.queue for r in readers], [self._cost(head) for head in heads])]

    def _cost(self, head: Head) -> int:
        return 1 if self.config.unit == "samples" else head.tokens

    def _head(self, reader: Reader) -> Head:
        """The next document of a source that gives a row something."""
        if reader.head is None:
            draw, dropped, length = reader.drawn, 0, reader.source.epoch_length
            while not (parts := self._parts(reader.source, draw)):
                draw, dropped = draw + 1, dropped + 1
                # Counted from where an epoch begins: the next one has another order.
                if draw % length == 0 and dropped >= length:
                    raise UserError(
                        f"source {reader.source.name}",
                        f"no document that fits, in {length}",
                        f"documents of at most {self._limit.tokens} tokens and "
                        f"{self._slots()} image slots",
                        f"Lengthen the rows, add image slots{self._advice(reader.source)}.",
                    )
            tokens = sum(document_size(part, self.layout).tokens for part in parts)
            reader.head = Head(parts, draw, tokens, dropped)
        return reader.head

    def _parts(self, source: DocumentSource, draw: int) -> list[Document]:
        overlong = self.config.overlong if source.config.task in MAY_BE_CUT else "drop"
        return fit(source.document(draw), self._limit, self.layout, overlong)

    def _slots(self) -> str:
        slots = zip(self.layout.slots, self._limit.slots)
        return ", ".join(f"{count} {name}" for name, count in slots) or "no"

    def _advice(self, source: DocumentSource) -> str:
        cut = self.config.overlong == "drop" and source.config.task in MAY_BE_CUT
        return ", or set overlong='split'" if cut else ""

    def _place(self, parts: list[Placed]) -> None:
        for placed in parts:
            size = document_size(placed.document, self.layout)
            self._closed += self._packer.add(placed, size)

    def _row(self, references: list) -> Row:
        row = []
        for name, draw, part in references:
            document = self._parts(self._readers[name].source, draw)[part]
            row.append(Placed(document, name, draw, part))
        return row

    def _open_row(self, references: list) -> OpenRow[Placed]:
        items = self._row(references)
        sizes = [document_size(placed.document, self.layout) for placed in items]
        return OpenRow(items, sum(sizes, start=empty(self.layout)))


def _references(row: Row) -> list:
    return [[placed.source, placed.draw, placed.part] for placed in row]


def _fingerprint(config: DataConfig, layout: Layout, lengths: dict[str, int]) -> str:
    """Of all that the stream depends on; how it is read ahead is not among it."""
    words = dataclasses.replace(config, prefetch=0, decode_threads=1, max_pixels=1)
    return hashlib.sha1(repr((words, layout, list(lengths.items()))).encode()).hexdigest()[:12]

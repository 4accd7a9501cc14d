"""Sources of documents: records in a seeded order, epoch after epoch, rendered on demand."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import grain
import numpy as np

from unijax.core.errors import UserError
from unijax.core.stream import Layout
from unijax.data.config import DataConfig, SourceConfig, limit_of, rendering
from unijax.data.document import Document, stable_hash
from unijax.data.render import DocumentKey, RenderConfig, render
from unijax.data.split import fit
from unijax.data.tasks import MAY_BE_CUT
from unijax.data.templates import check_marks
from unijax.data.tokenizer import Tokenizer


@runtime_checkable
class Records(Protocol):
    """Records by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict: ...


# Grain's shuffle needs no memory, but walks a domain of 65536 to find an index: with a few records
# that takes milliseconds each. Below this number a permutation is held instead.
_SMALL = 4096


class Order:
    """Which record is the n-th to be drawn: a new permutation in every epoch, forever."""

    def __init__(self, name: str, length: int, seed: int):
        if not length:
            raise UserError(
                f"source {name}", "no records", "at least one", "Correct its path or split."
            )
        self.length = length
        self._seed = stable_hash(seed, name)
        self._order = grain.MapDataset.range(length).shuffle(seed=self._seed).repeat()
        self._permutation = functools.lru_cache(maxsize=2)(self._permute)

    def __getitem__(self, draw: int) -> tuple[int, int]:
        """(epoch, index) of the n-th draw."""
        epoch, place = divmod(draw, self.length)
        if self.length < _SMALL:
            return epoch, int(self._permutation(epoch)[place])
        return epoch, int(self._order[draw])

    def _permute(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(self.length)


class DocumentSource:
    """The documents of one source, by number of draw. Holds no position of its own."""

    def __init__(
        self, config: SourceConfig, records: Records, tokenizer: Tokenizer, rendering: RenderConfig
    ):
        self.config = config
        self.name = config.name
        self._records = records
        self._order = Order(config.name, len(records), rendering.seed)
        self._tokenizer = tokenizer
        self._rendering = rendering

    @property
    def epoch_length(self) -> int:
        return self._order.length

    def document(self, draw: int) -> Document:
        """Renders the record of the n-th draw."""
        return self._render(*self._order[draw])

    def longer_than(self, size: int) -> Iterator[Document]:
        """The documents of a user's records with more bytes between two places for a cut."""
        for index in long_texts(self._records, size):
            yield self._render(0, index)

    def _render(self, epoch: int, index: int) -> Document:
        key = DocumentKey(self.name, epoch, index)
        record = self._records[index]
        return render(record, self.config.task, key, self._tokenizer, self._rendering)


class Subset:
    """Some of the records of a source, by index."""

    def __init__(self, whole: Records, indices: Sequence[int]):
        self.whole, self.indices = whole, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict:
        return self.whole[self.indices[index]]


def long_texts(records: Records, size: int) -> list[int]:
    """Indices of a user's records with texts of more bytes that cannot be cut; others have none."""
    if isinstance(records, Subset):
        inner = set(long_texts(records.whole, size))
        return [i for i, index in enumerate(records.indices) if index in inner] if inner else []
    return records.facts.longer_than(size) if hasattr(records, "facts") else []


def open_records(
    source: SourceConfig, seed: int, task: str | None = None, own: dict[str, Records] | None = None
) -> Records:
    """Opens what a source's config names, narrowed to its categories and limit.

    With a task, every record of a user's own data is checked for what the task reads. `own` holds
    what is open already of a user's data, by path: many sources may read one file.
    """
    records = _open(source, seed, task, {} if own is None else own)
    if source.kind == "scenes" or not (source.categories or source.limit):
        return records
    if source.kind == "shipped":
        labels = records.labels
    else:
        every = (records[i] for i in range(len(records)))
        labels = [(stable_hash(record["id"]), record.get("category")) for record in every]
    chosen = [
        (point, index)
        for index, (point, category) in enumerate(labels)
        if not source.categories or category in source.categories
    ]
    chosen = sorted(chosen)[: source.limit or None]
    return Subset(records, [index for _, index in sorted(chosen, key=lambda c: c[1])])


def _open(source: SourceConfig, seed: int, task: str | None, own: dict[str, Records]) -> Records:
    # Imported where they are used: a run on a user's own file needs no shipped dataset.
    match source.kind:
        case "shipped":
            from unijax.data.builders import open_dataset

            return open_dataset(source.path, source.split)
        case "scenes":
            from unijax.data.scenes import Scenes

            length = {"length": source.limit} if source.limit else {}
            return Scenes(split=source.split, seed=seed, **length)
    from unijax.data.user import open_own
    from unijax.data.user.faults import Faults

    if source.path not in own:
        left_out = Faults(frozenset(source.left_out))
        own[source.path] = open_own(source.path, source.kind, left_out)
    records = own[source.path]
    if task is None:
        return records
    if source.kind == "mixed":
        return Subset(records, records.facts.teaching(task))
    records.check(task)
    return records


def open_sources(
    config: DataConfig,
    layout: Layout,
    tokenizer: Tokenizer,
    records: Mapping[str, Records] | None = None,
) -> dict[str, DocumentSource]:
    """The sources of a config, by name; `records` may give those that are already open."""
    check_marks(config.template, tokenizer.tokens, tokenizer.where)
    how = rendering(config, layout)
    sources, own = {}, {}
    for source in config.sources:
        given = None if records is None else records.get(source.name)
        opened = open_records(source, config.seed, source.task, own) if given is None else given
        made = sources[source.name] = DocumentSource(source, opened, tokenizer, how)
        if config.overlong == "split" and source.task in MAY_BE_CUT:
            # A token is a byte at least. What cannot be cut is told now, not when it is drawn.
            for document in made.longer_than(config.row_length - 1):
                fit(document, limit_of(config, layout), layout, config.overlong)
    return sources

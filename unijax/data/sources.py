"""Sources of documents: records in a seeded order, epoch after epoch, rendered on demand."""

import functools
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import grain
import numpy as np

from unijax.core.errors import UserError
from unijax.core.stream import Layout
from unijax.data.config import DataConfig, SourceConfig, rendering
from unijax.data.document import Document, stable_hash
from unijax.data.render import DocumentKey, RenderConfig, render
from unijax.data.tokenizer import Tokenizer
from unijax.data.user_record import teaches


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
        epoch, index = self._order[draw]
        key = DocumentKey(self.name, epoch, index)
        record = self._records[index]
        return render(record, self.config.task, key, self._tokenizer, self._rendering)


class Subset:
    """Some of the records of a source, by index."""

    def __init__(self, records: Records, indices: Sequence[int]):
        self._records, self._indices = records, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> dict:
        return self._records[self._indices[index]]


def open_records(source: SourceConfig, seed: int, task: str | None = None) -> Records:
    """Opens what a source's config names, narrowed to its categories and limit.

    With a task, every record of a user's own data is checked for what the task reads.
    """
    records = _open(source, seed, task)
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


def _open(source: SourceConfig, seed: int, task: str | None) -> Records:
    # Imported where they are used: a run on a user's own file needs no shipped dataset.
    match source.kind:
        case "shipped":
            from unijax.data.builders import open_dataset

            return open_dataset(source.path, source.split)
        case "scenes":
            from unijax.data.scenes import Scenes

            length = {"length": source.limit} if source.limit else {}
            return Scenes(split=source.split, seed=seed, **length)
        case "jsonl":
            from unijax.data.user import open_jsonl

            return open_jsonl(source.path, task)
        case "folder":
            from unijax.data.user import open_folder

            return open_folder(source.path, task)
        case "mixed":
            from unijax.data.user import open_mixed

            records = open_mixed(source.path)
            if task is None:
                return records
            return Subset(records, [i for i, r in enumerate(records) if task in teaches(r)])
    raise AssertionError(source.kind)  # data.config.check names the kinds


def open_sources(
    config: DataConfig,
    layout: Layout,
    tokenizer: Tokenizer,
    records: Mapping[str, Records] | None = None,
) -> dict[str, DocumentSource]:
    """The sources of a config, by name; `records` may give those that are already open."""
    how = rendering(config, layout)
    sources = {}
    for source in config.sources:
        given = None if records is None else records.get(source.name)
        opened = open_records(source, config.seed, source.task) if given is None else given
        sources[source.name] = DocumentSource(source, opened, tokenizer, how)
    return sources

"""The loader: rows, cut to this process, decoded, batched, read ahead. A Grain pipeline.

The rows of a global batch are the next `config.rows` of the stream; process p of P takes the p-th
of P equal runs of them, so that the global array is the same for any P.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import grain
from grain.experimental import ThreadPrefetchIterDataset

from unijax.core.batch import PackedBatch
from unijax.core.errors import UserError
from unijax.core.stream import Layout
from unijax.data.batch import BatchMaker, Cached
from unijax.data.config import GROUPS, DataConfig, check
from unijax.data.document import document_size
from unijax.data.rows import Row, RowStream
from unijax.data.sources import Records, open_sources
from unijax.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class BatchInfo:
    """What the arrays of a batch do not say.

    Attributes:
      metrics: of the global batch: documents and tokens of each group, their shares, tokens of
        documents that the run has seen before, padding share, and documents left out since the
        beginning.
      names: the document of each uid in the global batch: source/epoch/index.
    """

    metrics: dict[str, int | float]
    names: dict[int, str]


class Loader:
    """An endless iterator of host batches whose place can be saved.

    `get_state` names the place behind the last batch that was handed out, whatever was read ahead.

    Args:
      config: checked here.
      layout: of the recipe.
      tokenizer: of the texts.
      records: already opened records, by source name; the others are opened from the config.
      cached: by array of slots, values that stand for its pixels.
      process_index: this process.
      process_count: all processes; divides `config.rows`.
    """

    def __init__(
        self,
        config: DataConfig,
        layout: Layout,
        tokenizer: Tokenizer,
        records: Mapping[str, Records] | None = None,
        cached: Mapping[str, Cached] | None = None,
        process_index: int = 0,
        process_count: int = 1,
    ):
        check(config, layout)
        if config.rows % process_count:
            raise UserError(
                "data.rows",
                f"{config.rows} rows and {process_count} processes",
                "rows that the processes can share evenly",
                f"Set data.rows to a multiple of {process_count}.",
            )
        self.config = config
        self.info: BatchInfo | None = None  # of the last batch
        sources = open_sources(config, layout, tokenizer, records)
        make = BatchMaker(config, layout, tokenizer.special, cached)
        local = config.rows // process_count
        own = slice(process_index * local, (process_index + 1) * local)

        def materialise(planned: tuple[list[Row], BatchInfo]) -> tuple[PackedBatch, BatchInfo]:
            rows, info = planned
            return make(rows[own]), info

        stream = functools.partial(RowStream, config, layout, sources)
        plans = PlanDataset(stream, config.rows).map(materialise)
        self._batches = iter(ThreadPrefetchIterDataset(plans, prefetch_buffer_size=config.prefetch))

    def __iter__(self):
        return self

    def __next__(self) -> PackedBatch:
        batch, self.info = next(self._batches)
        return batch

    @property
    def metrics(self) -> dict[str, int | float]:
        """Of the last batch; none before the first."""
        return {} if self.info is None else self.info.metrics

    @property
    def documents(self) -> dict[int, str]:
        """Of the last global batch: source/epoch/index by uid."""
        return {} if self.info is None else self.info.names

    def get_state(self) -> dict[str, Any]:
        """Plain JSON."""
        return self._batches.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Raises a UserError for a state of other data or another config."""
        self._batches.set_state(state)

    def close(self) -> None:
        """Stops reading ahead."""
        self._batches.close()


def fixed_batches(
    config: DataConfig,
    layout: Layout,
    tokenizer: Tokenizer,
    batches: int,
    records: Mapping[str, Records] | None = None,
    cached: Mapping[str, Cached] | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> list[PackedBatch]:
    """The first batches of a stream without chance in its rendering: held-out rows to evaluate on.

    Captions keep all their sentences and conditions are never dropped.
    """
    config = dataclasses.replace(config, p_first_sentence=0.0, p_drop_condition=0.0, prefetch=0)
    loader = Loader(config, layout, tokenizer, records, cached, process_index, process_count)
    return [next(loader) for _ in range(batches)]


class PlanDataset(grain.IterDataset):
    """Plans of global batches, as a Grain dataset."""

    def __init__(self, make_stream, rows: int):
        super().__init__()
        self._make_stream = make_stream
        self._rows = rows

    def __iter__(self) -> "PlanIterator":
        return PlanIterator(self._make_stream(), self._rows)


class PlanIterator(grain.DatasetIterator):
    """Takes the rows of a global batch from the stream, and counts what is in them."""

    def __init__(self, stream: RowStream, rows: int):
        super().__init__()
        self._stream = stream
        self._rows = rows

    def __next__(self) -> tuple[list[Row], BatchInfo]:
        rows = [next(self._stream) for _ in range(self._rows)]
        return rows, describe(rows, self._stream)

    def get_state(self) -> dict[str, Any]:
        return self._stream.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self._stream.set_state(state)


def describe(rows: Sequence[Row], stream: RowStream) -> BatchInfo:
    """Realised shares of the groups, and the names of the documents."""
    documents, tokens, names, repeated = Counter(), Counter(), {}, 0
    for row in rows:
        for placed in row:
            group = stream.group_of(placed.source)
            documents[group] += placed.part == 0
            size = document_size(placed.document, stream.layout).tokens
            tokens[group] += size
            repeated += size * stream.is_repeated(placed)
            names[placed.document.uid] = placed.document.name
    metrics = {"padding_share": 1 - tokens.total() / (len(rows) * stream.config.row_length)}
    for group in GROUPS:
        metrics[f"{group}_documents"] = documents[group]
        metrics[f"{group}_tokens"] = tokens[group]
        metrics[f"{group}_document_share"] = documents[group] / max(documents.total(), 1)
        metrics[f"{group}_token_share"] = tokens[group] / max(tokens.total(), 1)
    metrics["repeated_tokens"] = repeated
    metrics["documents_left_out"] = sum(stream.dropped.values())
    return BatchInfo(metrics, names)

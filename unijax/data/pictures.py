"""Batches of single pictures, with or without a caption: for tokenizers and contrastive encoders."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import grain
import numpy as np

from unijax.core.batch import ImageBatch
from unijax.core.errors import UserError
from unijax.data import images
from unijax.data.config import SourceConfig
from unijax.data.document import stable_hash
from unijax.data.sources import Records, open_records
from unijax.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class PictureConfig:
    """The data of a run on single pictures.

    Attributes:
      sources: mixed by weight; the task is not used.
      size: side of the square picture.
      batch: pictures of the global batch.
      text_length: S, tokens of a caption, longer ones are cut; 0 for pictures alone.
      crop: "pad" keeps the whole picture in a grey square, "centre" crops the long side.
      max_pixels: larger pictures are refused.
      seed: of order and choice of captions.
      prefetch: batches prepared ahead.
    """

    sources: tuple[SourceConfig, ...]
    size: int
    batch: int
    text_length: int = 0
    crop: str = "centre"
    max_pixels: int = 50_000_000
    seed: int = 0
    prefetch: int = 2

    def __post_init__(self):
        if self.crop not in ("pad", "centre"):
            raise UserError(
                "data.crop", repr(self.crop), "'pad' or 'centre'", "Correct the config."
            )
        if not self.sources:
            raise UserError("data.sources", "none", "at least one source", "Add one.")


class PictureLoader:
    """An endless iterator of `ImageBatch` on the host, whose place can be saved.

    Args:
      tokenizer: of the captions; None where `text_length` is 0.
      process_index, process_count: the p-th of P processes takes the p-th part of every batch.
      shuffle: False goes through the records in their order: held-out batches.
    """

    metrics: Mapping[str, float]

    def __init__(
        self,
        config: PictureConfig,
        tokenizer: Tokenizer | None,
        process_index: int = 0,
        process_count: int = 1,
        shuffle: bool = True,
    ):
        if config.batch % process_count:
            raise UserError(
                "data.batch", f"{config.batch} pictures and {process_count} processes",
                "pictures that the processes can share evenly", "Change data.batch.",
            )  # fmt: skip
        self.metrics = {}
        self._config, self._tokenizer = config, tokenizer
        local = config.batch // process_count
        parts = [self._source(source, shuffle) for source in config.sources if source.weight > 0]
        weights = [source.weight for source in config.sources if source.weight > 0]
        mixed = grain.MapDataset.mix(parts, weights)
        batches = mixed.batch(config.batch, batch_fn=list).map(
            lambda records: self._batch(
                records[process_index * local : (process_index + 1) * local]
            )
        )
        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=max(config.prefetch, 1))
        self._batches = iter(batches.to_iter_dataset(options))

    def __next__(self) -> ImageBatch:
        return next(self._batches)

    def get_state(self) -> dict[str, Any]:
        return self._batches.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self._batches.set_state(state)

    def close(self) -> None:
        """Nothing is left open."""

    def _source(self, source: SourceConfig, shuffle: bool) -> grain.MapDataset:
        records = open_records(source, self._config.seed)
        order = grain.MapDataset.range(len(records))
        if shuffle:
            order = order.shuffle(seed=stable_hash(self._config.seed, source.name))
        numbered = order.repeat().map_with_index(lambda draw, index: (draw, index))
        return numbered.map(lambda at: (source.name, at[0], _lazy(records, at[1])))

    def _batch(self, drawn: list) -> ImageBatch:
        config = self._config
        resize = {"pad": images.for_understanding, "centre": images.for_generation}[config.crop]
        pixels, texts = [], []
        for name, draw, record in drawn:
            record = record()
            where = f"{name}/{record['id']}"
            picture = images.decode(record["image"], where, config.max_pixels)
            pixels.append(resize(picture, config.size))
            if config.text_length:
                texts.append(self._caption(record, stable_hash(config.seed, name, draw)))
        batch = ImageBatch(pixels=np.stack(pixels), weight=np.ones(len(pixels), np.float32))
        if not config.text_length:
            return batch
        text = np.zeros((len(texts), config.text_length), np.int32)
        for row, ids in zip(text, texts):
            row[: len(ids)] = ids
        length = np.array([len(ids) for ids in texts], np.int32)
        return batch.replace(text=text, text_length=length)

    def _caption(self, record: dict, seed: int) -> list[int]:
        captions = record["captions"]
        choice = np.random.default_rng(seed).integers(len(captions))
        return self._tokenizer.encode(captions[choice])[: self._config.text_length]


def _lazy(records: Records, index: int):
    """Read when the batch is made, by the process that needs it."""
    return lambda: records[int(index)]

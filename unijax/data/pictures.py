"""Batches of single pictures, with or without a caption: for image tokenizers and encoders."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import grain
import numpy as np

from unijax.core.batch import ImageBatch
from unijax.core.errors import UserError
from unijax.core.masking import Masking
from unijax.core.record import added
from unijax.core.stream import RESIZES
from unijax.data.batch import Cached
from unijax.data.block_mask import block_mask
from unijax.data.captions import CaptionTokenizer
from unijax.data.config import SourceConfig, check_source
from unijax.data.document import ImageRef, stable_hash
from unijax.data.prepare import Preparation
from unijax.data.sources import Order, open_records

_FOREVER = 2**40  # draws: more than any run makes


@dataclasses.dataclass(frozen=True)
class PictureConfig:
    """The data of a run on single pictures.

    Attributes:
      sources: mixed by weight; the task is not used.
      size: side of the square picture.
      batch: pictures of the global batch.
      text_length: S, tokens of a caption, longer ones are cut; 0 for pictures alone.
      crop: "pad" keeps the whole picture in a grey square, "centre" crops the long side, "random"
        takes a random part, mirrored or not, of every draw anew (`data.random_crop`).
      max_pixels: larger pictures are refused.
      seed: of order and choice of captions.
      prefetch: batches prepared ahead.
      crop_scale: of the area of a random part, least and most share of the picture's.
      classes: categories of records, in the order of their labels; none: no labels.
    """

    sources: tuple[SourceConfig, ...]
    size: int
    batch: int
    text_length: int = 0
    crop: str = "centre"
    max_pixels: int = 50_000_000
    seed: int = 0
    prefetch: int = 2
    crop_scale: tuple[float, ...] = added((0.2, 1.0))
    classes: tuple[str, ...] = added(())

    def __post_init__(self):
        crops = (*RESIZES, "random")
        if self.crop not in crops:
            raise UserError(
                "data.crop", repr(self.crop), f"one of {[*crops]}", "Correct the config."
            )
        scale = self.crop_scale
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise UserError(
                "data.crop_scale", f"{scale}", "least and most share, above 0 and up to 1",
                "Correct the config.",
            )  # fmt: skip
        if len({*self.classes}) < len(self.classes):
            raise UserError("data.classes", f"{self.classes}", "each once", "Correct the config.")
        for source in self.sources:
            check_source(f"data.sources.{source.name}", source)
        if not any(source.weight > 0 for source in self.sources):
            raise UserError(
                "data.sources", "no source with a weight above 0", "at least one", "Add one."
            )
        if self.seed < 0:
            raise UserError("data.seed", f"{self.seed}", "at least 0", "Correct it.")


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A picture in a batch, read when the batch is made, by the process that needs it."""

    source: str
    draw: int
    read: Callable[[], dict]


class PictureLoader:
    """An endless iterator of `ImageBatch` on the host, whose place can be saved.

    Args:
      tokenizer: of the captions; None where `text_length` is 0.
      process_index, process_count: the p-th of P processes takes the p-th part of every batch.
      shuffle: False goes through the records in their order: held-out batches.
      masking: of patches, for a recipe that masks some.
      cached: what frozen encoders made of every picture, by name.
    """

    metrics: Mapping[str, float]
    documents: Mapping[int, str]  # of the last global batch: source/draw by uid

    def __init__(
        self,
        config: PictureConfig,
        tokenizer: CaptionTokenizer | None,
        process_index: int = 0,
        process_count: int = 1,
        shuffle: bool = True,
        masking: Masking | None = None,
        cached: Mapping[str, Cached] | None = None,
    ):
        if config.batch % process_count:
            raise UserError(
                "data.batch", f"{config.batch} pictures and {process_count} processes",
                "pictures that the processes can share evenly", "Change data.batch.",
            )  # fmt: skip
        self.metrics, self.documents = {}, {}
        self._config, self._tokenizer = config, tokenizer
        self._masking, self._cached = masking, list((cached or {}).values())
        self._prepare = preparation(config)
        local = config.batch // process_count
        parts = [self._source(source, shuffle) for source in config.sources if source.weight > 0]
        weights = [source.weight for source in config.sources if source.weight > 0]
        mixed = grain.MapDataset.mix(parts, weights)
        own = slice(process_index * local, (process_index + 1) * local)

        def materialise(pictures: list[Drawn]) -> tuple[ImageBatch, dict[int, str]]:
            names = [f"{drawn.source}/{drawn.draw}" for drawn in pictures]
            return self._batch(pictures[own]), {stable_hash(name): name for name in names}

        batches = mixed.batch(config.batch, batch_fn=list).map(materialise)
        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=max(config.prefetch, 1))
        self._batches = iter(batches.to_iter_dataset(options))

    def __iter__(self) -> "PictureLoader":
        return self

    def __next__(self) -> ImageBatch:
        batch, self.documents = next(self._batches)
        return batch

    def get_state(self) -> dict[str, Any]:
        return self._batches.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self._batches.set_state(state)

    def close(self) -> None:
        """Stops reading ahead."""
        self._batches.close()

    def _source(self, source: SourceConfig, shuffle: bool) -> grain.MapDataset:
        records = open_records(source, self._config.seed)
        order = Order(source.name, len(records), self._config.seed)

        def drawn(draw: int) -> Drawn:
            draw = int(draw)
            index = order[draw][1] if shuffle else draw % len(records)
            return Drawn(source.name, draw, functools.partial(records.__getitem__, index))

        return grain.MapDataset.range(_FOREVER).map(drawn)

    def _batch(self, pictures: list[Drawn]) -> ImageBatch:
        config = self._config
        pixels, texts, labels = [], [], []
        made = {one.field: [] for one in self._cached}
        seeds = [
            stable_hash(config.seed, drawn.source, drawn.draw, "picture") for drawn in pictures
        ]
        for drawn, seed in zip(pictures, seeds):
            record = drawn.read()
            image = reference(record, drawn.source, seed)
            pixels.append(self._prepare(image))
            if config.text_length:
                texts.append(self._caption(record, drawn))
            if config.classes:
                labels.append(label(record, drawn.source, config.classes))
            for one in self._cached:
                made[one.field].append(one.lookup(image.key))
        batch = ImageBatch(
            pixels=np.stack(pixels),
            weight=np.ones(len(pixels), np.float32),
            seed=np.array(seeds, np.uint32),
            label=np.array(labels, np.int32) if labels else None,
            masked=self._masks(seeds),
            **{field: np.stack(values) for field, values in made.items()},
        )
        if not config.text_length:
            return batch
        text = np.zeros((len(texts), config.text_length), np.int32)
        for row, ids in zip(text, texts):
            row[: len(ids)] = ids
        length = np.array([len(ids) for ids in texts], np.int32)
        return batch.replace(text=text, text_length=length)

    def _masks(self, seeds: list[int]) -> np.ndarray | None:
        """bool [B, N], in raster order."""
        if self._masking is None:
            return None
        side, count = self._masking.grid, self._masking.count
        return np.stack([block_mask(seed, side, side, count).reshape(-1) for seed in seeds])

    def _caption(self, record: dict, drawn: Drawn) -> list[int]:
        captions = record.get("captions")
        if not captions:
            raise UserError(
                f"{drawn.source}: {record['id']}",
                "no captions",
                "a caption, as data.text_length is not 0",
                "Caption the picture, or set data.text_length=0.",
            )
        rng = np.random.default_rng(stable_hash(self._config.seed, drawn.source, drawn.draw))
        caption = captions[int(rng.integers(len(captions)))]
        return self._tokenizer.caption(caption, self._config.text_length)


def preparation(config: PictureConfig) -> Preparation:
    """How pictures are prepared."""
    return Preparation(
        config.size, config.crop, max_pixels=config.max_pixels, scale=config.crop_scale
    )


def reference(record: dict, source: str, seed: int) -> ImageRef:
    """The picture of a record. Raises a UserError where there is none."""
    if "image" not in record:
        raise UserError(
            record.get("where", f"{source}: {record['id']}"), "no image",
            "a picture in every record", "Take the record out.",
        )  # fmt: skip
    return ImageRef(f"{source}: {record['id']}", record["image"], seed)


def label(record: dict, source: str, classes: tuple[str, ...]) -> int:
    """Which of the classes a record is of. Raises a UserError for one of none of them."""
    category = record.get("category")
    if category not in classes:
        raise UserError(
            f"{source}: {record['id']}",
            f"the category {category!r}" if category else "no category",
            f"one of data.classes: {', '.join(classes)}",
            "Name it there, or narrow the source with `categories`.",
        )
    return classes.index(category)


def all_pictures(sources: tuple[SourceConfig, ...], seed: int) -> dict[str, ImageRef]:
    """Every picture of the sources, by its key."""
    found: dict[str, ImageRef] = {}
    for source in sources:
        records = open_records(source, seed)
        for index in range(len(records)):
            image = reference(records[index], source.name, 0)
            found.setdefault(image.key, image)
    return found

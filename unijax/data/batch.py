"""From rows to a `PackedBatch` on the host: pictures are decoded here, and only here."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from unijax.core.batch import ImageSlots, Kind, PackedBatch
from unijax.core.errors import UserError
from unijax.core.vocab import SpecialIds
from unijax.data import images
from unijax.data.assemble import FIELDS, RowArrays, assemble
from unijax.data.config import DataConfig, StreamConfig
from unijax.data.document import ImageRef
from unijax.data.rows import Row
from unijax.ops.attention import check_intervals, packed_intervals


@dataclasses.dataclass(frozen=True)
class Cached:
    """What a frozen encoder made of pictures ahead of time; stands for the pixels of a stream.

    Attributes:
      kind: "features" or "codes", the field of `ImageSlots` that is filled.
      lookup: by the picture's key (`ImageRef.key`); raises KeyError for one that it does not know.
      shape: of one picture's value: (N, D) for features, (N,) for codes.
      dtype: float of any width, or int32.
    """

    kind: str
    lookup: Callable[[str], np.ndarray]
    shape: tuple[int, ...]
    dtype: Any


class BatchMaker:
    """Makes host batches of rows.

    Args:
      config: lengths, slots, preprocessing.
      special: ids that rows contain.
      cached: for a stream, what its slots carry in place of pixels.
    """

    def __init__(
        self, config: DataConfig, special: SpecialIds, cached: Mapping[str, Cached] | None = None
    ):
        self._config = config
        self._special = special
        self._cached = dict(cached or {})
        self._pool = ThreadPoolExecutor(config.decode_threads, thread_name_prefix="decode")

    def __call__(self, rows: Sequence[Row]) -> PackedBatch:
        """Arrays of the rows, numpy, with a leading dimension of `len(rows)`."""
        config = self._config
        arrays = [
            assemble(
                [placed.document for placed in row],
                config.row_length,
                self._special,
                config.image_tokens,
            )
            for row in rows
        ]
        fields = {name: np.stack([getattr(row, name) for row in arrays]) for name in FIELDS}
        # As the recipe sees them that lets most be seen: every image sees its whole span.
        seen = (fields[name] for name in ("segment", "kind", "image"))
        check_intervals(*packed_intervals(*seen, (Kind.UND, Kind.GEN)), config.row_length)
        return PackedBatch(**fields, und=self._slots("und", arrays), gen=self._slots("gen", arrays))

    def _slots(self, name: str, rows: Sequence[RowArrays]) -> ImageSlots | None:
        stream: StreamConfig | None = getattr(self._config, name)
        if stream is None:
            return None
        places = [
            (row, slot, image)
            for row, arrays in enumerate(rows)
            for slot, image in enumerate(getattr(arrays, name))
        ]
        shape = (len(rows), stream.slots)
        weight, seed = np.zeros(shape, np.float32), np.zeros(shape, np.uint32)
        for row, slot, image in places:
            weight[row, slot] = 1
            seed[row, slot] = image.seed
        cached = self._cached.get(name)
        if cached is None:
            kind, value_shape, dtype = "pixels", (stream.size, stream.size, 3), np.uint8
            read = {"und": self._und_pixels, "gen": self._gen_pixels}[name]
        else:
            kind, value_shape, dtype = cached.kind, cached.shape, cached.dtype
            read = functools.partial(_read_cached, cached, name)
        values = np.zeros((*shape, *value_shape), dtype)
        found = self._pool.map(read, [image for _, _, image in places])
        for (row, slot, _), value in zip(places, found):
            values[row, slot] = value
        return ImageSlots(weight=weight, seed=seed, **{kind: values})

    def _und_pixels(self, image: ImageRef) -> np.ndarray:
        pixels = images.decode(image.read(), image.where, self._config.max_pixels)
        return images.for_understanding(pixels, self._config.und.size, self._config.und_rounding)

    def _gen_pixels(self, image: ImageRef) -> np.ndarray:
        pixels = images.decode(image.read(), image.where, self._config.max_pixels)
        return images.for_generation(pixels, self._config.gen.size)


def _read_cached(cached: Cached, stream: str, image: ImageRef) -> np.ndarray:
    try:
        return cached.lookup(image.key)
    except KeyError:
        raise UserError(
            image.where,
            f"no cached {cached.kind} of the picture {image.key}",
            f"{cached.kind} of every picture of the stream {stream!r}",
            "Compute the cache again for this data.",
        ) from None

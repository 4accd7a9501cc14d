"""From rows to a `PackedBatch` on the host: pictures are decoded here, and only here."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from unijax.core.batch import ImageSlots, Kind, PackedBatch
from unijax.core.errors import UserError
from unijax.core.stream import Layout
from unijax.core.vocab import SpecialIds
from unijax.data.assemble import FIELDS, RowArrays, assemble
from unijax.data.config import DataConfig, preparation
from unijax.data.document import ImageRef
from unijax.data.rows import Row
from unijax.ops.attention import check_intervals, packed_intervals


@dataclasses.dataclass(frozen=True)
class Cached:
    """What a frozen encoder made of pictures ahead of time; stands for the pixels of some slots.

    Attributes:
      field: of `ImageSlots` that is filled: "features", "codes" or "latents".
      lookup: by the picture's key (`ImageRef.key`); raises KeyError for one that it does not know.
      shape: of one picture's value: (N, D) for features, (N,) for codes.
      dtype: float of any width, or int32.
    """

    field: str
    lookup: Callable[[str], np.ndarray]
    shape: tuple[int, ...]
    dtype: Any


class BatchMaker:
    """Makes host batches of rows.

    Args:
      config: lengths, slots, preprocessing.
      layout: of the recipe.
      special: ids that rows contain.
      cached: by array of slots, what it carries in place of pixels.

    Raises:
      UserError: a special token that the layout needs and the tokenizer lacks.
    """

    def __init__(
        self,
        config: DataConfig,
        layout: Layout,
        special: SpecialIds,
        cached: Mapping[str, Cached] | None = None,
    ):
        layout.check(special)
        self._config = config
        self._layout = layout
        self._special = special
        self._cached = dict(cached or {})
        self._prepare = {s.role: preparation(config, s) for s in layout.streams}
        self._pool = ThreadPoolExecutor(config.decode_threads, thread_name_prefix="decode")

    def __call__(self, rows: Sequence[Row]) -> PackedBatch:
        """Arrays of the rows, numpy, with a leading dimension of `len(rows)`."""
        config = self._config
        arrays = [
            assemble(
                [placed.document for placed in row],
                config.row_length,
                self._special,
                self._layout,
            )
            for row in rows
        ]
        fields = {name: np.stack([getattr(row, name) for row in arrays]) for name in FIELDS}
        # As the recipe sees them that lets most be seen: every image sees its whole span.
        seen = (fields[name] for name in ("segment", "kind", "image"))
        kinds = tuple(kind for kind in Kind if kind not in (Kind.PAD, Kind.TEXT))
        check_intervals(*packed_intervals(*seen, kinds), config.row_length)
        used = [name for name in self._layout.slots if config.slots.get(name)]
        return PackedBatch(**fields, images={name: self._slots(name, arrays) for name in used})

    def _slots(self, name: str, rows: Sequence[RowArrays]) -> ImageSlots:
        places = [
            (row, slot, span)
            for row, arrays in enumerate(rows)
            for slot, span in enumerate(arrays.images[name])
        ]
        streams = self._layout.by_role
        shape = (len(rows), self._config.slots[name])
        weight, seed = np.zeros(shape, np.float32), np.zeros(shape, np.uint32)
        t_max = np.zeros(shape, np.float32)
        for row, slot, span in places:
            weight[row, slot] = 1
            seed[row, slot] = span.image.seed
            t_max[row, slot] = streams[span.role].t_max
        of_noise = self._layout.has_noise(name)
        field, values = self._values(name, shape, places)
        return ImageSlots(
            weight=weight, seed=seed, t_max=t_max if of_noise else None, **{field: values}
        )

    def _values(self, name: str, shape: tuple[int, int], places: list) -> tuple[str, np.ndarray]:
        """The field of the slots that is filled, and what fills it."""
        cached = self._cached.get(name)
        if cached is None:
            size = self._layout.of_slots(name).size
            field, value_shape, dtype = "pixels", (size, size, 3), np.uint8
        else:
            field, value_shape, dtype = cached.field, cached.shape, cached.dtype
        values = np.zeros((*shape, *value_shape), dtype)

        def read(place) -> np.ndarray:
            _, _, span = place
            if cached is None:
                return self._prepare[span.role](span.image)
            return _read_cached(cached, name, span.image)

        for (row, slot, _), value in zip(places, self._pool.map(read, places)):
            values[row, slot] = value
        return field, values


def _read_cached(cached: Cached, slots: str, image: ImageRef) -> np.ndarray:
    try:
        return cached.lookup(image.key)
    except KeyError:
        raise UserError(
            image.where,
            f"no cached {cached.field} of the picture {image.key}",
            f"{cached.field} of every picture of the slots {slots!r}",
            "Compute the cache again for this data.",
        ) from None

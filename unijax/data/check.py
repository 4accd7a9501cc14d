"""Looking at all of a user's pictures ahead of time, side by side."""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from unijax.core.errors import Unreadable, UserError, named
from unijax.data import images

_TOGETHER = 1024  # records whose pictures are in work


def pictures_in(record: Any) -> Iterator[Callable[[], bytes]]:
    """What reads each picture of a record, wherever in it that stands."""
    if callable(record):
        yield record
    inside = record.values() if isinstance(record, dict) else ()
    inside = record if isinstance(record, list | tuple) else inside
    for value in inside:
        yield from pictures_in(value)


def broken(
    records: Sequence[dict], max_pixels: int, done: Callable[[int], None] = lambda n: None
) -> dict[str, UserError]:
    """What is wrong with pictures, by the place of their record. Every one is decoded.

    Args:
      records: of a user's own data.
      max_pixels: larger ones are refused.
      done: is told of so many more records.
    """

    def look(index: int) -> tuple[str, UserError | None]:
        record = records[index]
        try:
            for read in pictures_in(record):
                images.decode(read(), record["where"], max_pixels)
        except Unreadable:
            raise
        except UserError as error:
            return record["where"], error
        return record["where"], None

    found = {}
    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="check") as pool:
        for indices in _batches(len(records)):
            for where, error in pool.map(look, indices):
                done(1)
                if error is not None:
                    found[named(where)] = error
    return found


def _batches(count: int) -> Iterator[range]:
    return (range(at, min(at + _TOGETHER, count)) for at in range(0, count, _TOGETHER))


def contact_sheet(records: Sequence[dict], max_pixels: int, count: int, size: int) -> np.ndarray:
    """Pictures from all over the data, whole, each in a square: uint8 [n, size, size, 3]."""
    shown = []
    places = np.unique(np.linspace(0, max(len(records) - 1, 0), 4 * count).astype(int))
    for index in places.tolist() if len(records) else ():
        for read in itertools.islice(pictures_in(records[index]), 1):
            try:
                pixels = images.decode(read(), records[index]["where"], max_pixels)
                shown.append(images.for_understanding(pixels, size))
            except UserError:
                continue  # told elsewhere
    keep = np.unique(np.linspace(0, max(len(shown) - 1, 0), count).astype(int))
    return np.array([shown[i] for i in keep.tolist()] if shown else [], np.uint8)

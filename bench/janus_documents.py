"""Documents as a user of transformers has them: ids and labels, no rows. Numpy alone."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

IGNORED = -100  # a label that torch's cross-entropy leaves out


@dataclasses.dataclass(frozen=True)
class Documents:
    """Documents one after another.

    Attributes:
      ids: int32 [n], text ids; 0 where an image is.
      label: int32 [n], the text id that a position answers with, or `IGNORED`.
      und, gen: bool [n], whether the position is one of an image to understand, to generate.
      lengths: int [D], tokens of each document.
      und_pixels: uint8 [images, height, width, 3], in order.
      gen_pixels: the same, or None where codes are given.
      codes: int [images, N], or None where pixels are given.
    """

    ids: np.ndarray
    label: np.ndarray
    und: np.ndarray
    gen: np.ndarray
    lengths: np.ndarray
    und_pixels: np.ndarray
    gen_pixels: np.ndarray | None
    codes: np.ndarray | None

    @property
    def targets(self) -> int:
        """Positions that answer: one for each label, one for each token of an image to generate."""
        return int((self.label != IGNORED).sum() + self.gen.sum())

    def save(self, path: pathlib.Path) -> None:
        arrays = dataclasses.asdict(self)
        np.savez(path, **{name: x for name, x in arrays.items() if x is not None})

    @classmethod
    def load(cls, path: pathlib.Path) -> "Documents":
        with np.load(path) as file:
            return cls(**{f.name: file.get(f.name) for f in dataclasses.fields(cls)})


@dataclasses.dataclass(frozen=True)
class Padded:
    """Some documents in a rectangle, each padded at its end to the longest.

    Attributes:
      ids, label: int64 [B, L].
      und, gen, mask: bool [B, L]; `mask` is False on padding.
      und_pixels, gen_pixels, codes: of these documents' images, in order.
    """

    ids: np.ndarray
    label: np.ndarray
    und: np.ndarray
    gen: np.ndarray
    mask: np.ndarray
    und_pixels: np.ndarray
    gen_pixels: np.ndarray | None
    codes: np.ndarray | None


def pad(documents: Documents, chosen: Sequence[int], image_tokens: tuple[int, int]) -> Padded:
    """The chosen documents, and their images in the order of the documents.

    Args:
      image_tokens: of an image to understand, to generate.
    """
    ends = np.cumsum(documents.lengths)
    width = int(documents.lengths[list(chosen)].max())
    shape = (len(chosen), width)
    out = {
        "ids": np.zeros(shape, np.int64),
        "label": np.full(shape, IGNORED, np.int64),
        "und": np.zeros(shape, bool),
        "gen": np.zeros(shape, bool),
    }
    mask = np.zeros(shape, bool)
    first_image = {
        name: np.concatenate([[0], np.cumsum(getattr(documents, name))]) // n
        for name, n in zip(("und", "gen"), image_tokens)
    }
    images = {"und": [], "gen": []}
    for row, i in enumerate(chosen):
        start, end = ends[i] - documents.lengths[i], ends[i]
        mask[row, : end - start] = True
        for name, array in out.items():
            array[row, : end - start] = getattr(documents, name)[start:end]
        for name, taken in images.items():
            taken += range(first_image[name][start], first_image[name][end])
    return Padded(
        **out,
        mask=mask,
        und_pixels=documents.und_pixels[images["und"]],
        gen_pixels=None if documents.gen_pixels is None else documents.gen_pixels[images["gen"]],
        codes=None if documents.codes is None else documents.codes[images["gen"]],
    )


def micro_batches(lengths: np.ndarray, size: int, by_length: bool) -> list[list[int]]:
    """Documents of a step in batches of `size`, as they come or neighbours in length together."""
    order = np.argsort(lengths, kind="stable") if by_length else np.arange(len(lengths))
    return [order[at : at + size].tolist() for at in range(0, len(order), size)]


def padding_share(lengths: np.ndarray, batches: list[list[int]]) -> float:
    """Of all positions that are computed when each batch is padded to its longest."""
    computed = sum(len(b) * int(lengths[b].max()) for b in batches)
    return 1 - float(lengths.sum()) / computed

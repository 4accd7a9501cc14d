"""Arrays of one row: labels are shifted, images addressed and positions counted here, once."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from unijax.core.batch import Kind, Target
from unijax.core.vocab import SpecialIds
from unijax.data.document import (
    Document,
    GenSpan,
    ImageRef,
    ImageTokens,
    TextSpan,
    UndSpan,
    document_size,
)


@dataclasses.dataclass
class RowArrays:
    """A row on the host: the `[T]` fields of `PackedBatch`, and its pictures, not yet decoded."""

    tokens: np.ndarray  # int32 [T]
    kind: np.ndarray  # int32 [T]
    segment: np.ndarray  # int32 [T]
    position: np.ndarray  # int32 [T]
    image: np.ndarray  # int32 [T]
    target_kind: np.ndarray  # int32 [T]
    target: np.ndarray  # int32 [T]
    weight: np.ndarray  # float32 [T]
    uid: np.ndarray  # uint32 [T]
    und: list[ImageRef] = dataclasses.field(default_factory=list)
    gen: list[ImageRef] = dataclasses.field(default_factory=list)


FIELDS = tuple(f.name for f in dataclasses.fields(RowArrays) if f.name not in ("und", "gen"))


def assemble(
    documents: Sequence[Document], length: int, special: SpecialIds, images: ImageTokens
) -> RowArrays:
    """Lays documents one after another.

    An answer stands at the position before it: the id of a text token with its weight, the address
    of a code in the `gen` stream with weight 1. The last token of a document has no answer.

    Args:
      documents: that fit, together, in `length`.
      length: T.
      special: ids of begin of sequence, begin and end of image.
      images: N of each stream.
    """
    row = RowArrays(
        **{
            name: np.zeros(length, {"weight": np.float32, "uid": np.uint32}.get(name, np.int32))
            for name in FIELDS
        }
    )
    start = 0
    for segment, document in enumerate(documents, start=1):
        end = start + document_size(document, images).tokens
        assert end <= length, f"{document.name}: {end} tokens in a row of {length}"
        row.segment[start:end] = segment
        row.position[start:end] = np.arange(end - start)
        row.uid[start:end] = document.uid
        _lay(row, document, start, special, images)
        start = end
    return row


def _lay(
    row: RowArrays, document: Document, start: int, special: SpecialIds, images: ImageTokens
) -> None:
    row.kind[start] = Kind.TEXT
    row.tokens[start] = special.bos
    at = start + 1
    for span in document.spans:
        match span:
            case TextSpan(ids, weights):
                end = at + len(ids)
                row.kind[at:end] = Kind.TEXT
                row.tokens[at:end] = ids
                learned = np.asarray(weights, np.float32)
                answered = slice(at - 1, end - 1)
                row.weight[answered] = learned
                row.target[answered] = np.where(learned != 0, ids, 0)
                row.target_kind[answered] = np.where(learned != 0, Target.TEXT, Target.NONE)
                at = end
            case UndSpan(image):
                addresses = _lay_image(row, at, Kind.UND, len(row.und), images.und, special)
                row.und.append(image)
                at += len(addresses) + 2
            case GenSpan(image):
                addresses = _lay_image(row, at, Kind.GEN, len(row.gen), images.gen, special)
                answered = slice(at, at + len(addresses))  # from begin-of-image to the last but one
                row.target_kind[answered] = Target.CODE
                row.target[answered] = addresses
                row.weight[answered] = 1
                row.gen.append(image)
                at += len(addresses) + 2


def _lay_image(
    row: RowArrays, at: int, kind: Kind, slot: int, tokens: int, special: SpecialIds
) -> np.ndarray:
    """Begin of image, the addresses of the image's tokens, end of image."""
    first, end = at + 1, at + 1 + tokens
    row.kind[[at, end]] = Kind.TEXT
    row.tokens[at] = special.boi
    row.tokens[end] = special.eoi
    addresses = slot * tokens + np.arange(tokens, dtype=np.int32)
    row.kind[first:end] = kind
    row.tokens[first:end] = addresses
    row.image[first:end] = 1 + len(row.und) + len(row.gen)
    return addresses

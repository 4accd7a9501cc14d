"""Arrays of one row: labels are shifted, images addressed and positions counted here, once."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from unijax.core.batch import Kind, Target
from unijax.core.stream import Layout, Mark, Stream
from unijax.core.vocab import SpecialIds
from unijax.data.document import Document, ImageSpan, TextSpan, document_size


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
    # In the order of their slots, by the name of the array.
    images: dict[str, list[ImageSpan]] = dataclasses.field(default_factory=dict)

    @property
    def image_count(self) -> int:
        return sum(map(len, self.images.values()))


FIELDS = tuple(f.name for f in dataclasses.fields(RowArrays) if f.name != "images")


def assemble(
    documents: Sequence[Document], length: int, special: SpecialIds, layout: Layout
) -> RowArrays:
    """Lays documents one after another.

    An answer stands at the position that gives it: the id of a text token, with its weight, at the
    one before it; of an image at the positions that its stream names, with weight 1, as an address
    in the stream's slots: of the next token, or where the target is noise, of the token itself. The
    last token of a document has no answer.

    Args:
      documents: that fit, together, in `length`.
      length: T.
      special: ids of what documents begin with and of the marks of images.
      layout: of the recipe.
    """
    row = RowArrays(
        **{
            name: np.zeros(length, {"weight": np.float32, "uid": np.uint32}.get(name, np.int32))
            for name in FIELDS
        },
        images={name: [] for name in layout.slots},
    )
    start = 0
    for segment, document in enumerate(documents, start=1):
        end = start + document_size(document, layout).tokens
        assert end <= length, f"{document.name}: {end} tokens in a row of {length}"
        row.segment[start:end] = segment
        row.position[start:end] = np.arange(end - start)
        row.uid[start:end] = document.uid
        _lay(row, document, start, special, layout)
        start = end
    return row


def _lay(
    row: RowArrays, document: Document, start: int, special: SpecialIds, layout: Layout
) -> None:
    at = start
    if layout.start is not None:
        _lay_mark(row, at, Mark(layout.start), special, first=True)
        at += 1
    for span in document.spans:
        if isinstance(span, TextSpan):
            _lay_text(row, at, span, first=at == start)
            at += len(span.ids)
        else:
            at = _lay_image(row, at, span, layout.by_role[span.role], special, first=at == start)


def _lay_text(row: RowArrays, at: int, span: TextSpan, first: bool) -> None:
    ids, learned = np.asarray(span.ids), np.asarray(span.weights, np.float32)
    row.kind[at : at + len(ids)] = Kind.TEXT
    row.tokens[at : at + len(ids)] = ids
    if first:  # no position before it answers with it
        at, ids, learned = at + 1, ids[1:], learned[1:]
    answered = slice(at - 1, at - 1 + len(ids))
    row.weight[answered] = learned
    row.target[answered] = np.where(learned != 0, ids, 0)
    row.target_kind[answered] = np.where(learned != 0, Target.TEXT, Target.NONE)


def _lay_mark(row: RowArrays, at: int, mark: Mark, special: SpecialIds, first: bool) -> None:
    learned = (float(mark.learned),)
    _lay_text(row, at, TextSpan((getattr(special, mark.name),), learned), first)


def _lay_image(
    row: RowArrays, at: int, span: ImageSpan, stream: Stream, special: SpecialIds, first: bool
) -> int:
    """The image's tokens between its marks, and what is answered. Returns the end of the span."""
    number, slot = 1 + row.image_count, len(row.images[stream.slots])
    if stream.before is not None:
        _lay_mark(row, at, stream.before, special, first)
        at += 1
    begin, end = at, at + stream.tokens
    row.kind[begin:end] = stream.kind
    row.tokens[begin:end] = slot * stream.tokens + np.arange(stream.tokens, dtype=np.int32)
    row.image[begin:end] = number
    row.images[stream.slots].append(span)
    if stream.after is not None:
        _lay_mark(row, end, stream.after, special, first=False)
    if stream.target != Target.NONE:
        first_offset, last = stream.answers[0], stream.tokens + stream.answers[1]
        offsets = np.arange(first_offset, last, dtype=np.int32)
        answered = slice(begin + first_offset, begin + last)
        row.target_kind[answered] = stream.target
        row.target[answered] = slot * stream.tokens + offsets + stream.shift
        row.weight[answered] = 1
    return end + (stream.after is not None)

"""Documents that do not fit in a row: cut at the borders of spans, or dropped."""

import dataclasses

from unijax.core.errors import UserError
from unijax.data.document import (
    Document,
    ImageTokens,
    Size,
    Span,
    document_size,
    has_target,
    span_size,
)


def fit(document: Document, limit: Size, images: ImageTokens, overlong: str) -> list[Document]:
    """The parts of a document that go into rows: the document itself where it fits.

    A part takes as many spans as fit, in order, and begins with a begin-of-sequence token of its
    own. A part in which nothing is learned (the masked prompt before a cut) is left out.

    Args:
      document: as rendered.
      limit: tokens of a row, and its image slots.
      images: tokens of an image.
      overlong: "split", or "drop": a document that does not fit gives no part.

    Raises:
      UserError: when splitting, a single span that is longer than a row.
    """
    if document_size(document, images).within(limit):
        return [document] if has_target(document.spans) else []
    if overlong == "drop":
        return []
    where = document.where or document.name
    groups: list[list[Span]] = [[]]
    used = Size(1)
    for span in document.spans:
        size = span_size(span, images)
        if size.und > limit.und or size.gen > limit.gen:
            raise UserError(
                where,
                f"an image to {'understand' if size.und else 'generate'}",
                "rows with slots for such images",
                "Give the stream at least one slot, or choose another task for the source.",
            )
        if size.tokens + 1 > limit.tokens:
            raise UserError(
                where,
                f"one span of {size.tokens} tokens",
                f"at most {limit.tokens - 1}, a row without its first token",
                "Lengthen the rows, shorten the text (a blank line ends a span), "
                "or let overlong='drop' leave such documents out.",
            )
        if not (used + size).within(limit):
            groups.append([])
            used = Size(1)
        groups[-1].append(span)
        used += size
    return [
        dataclasses.replace(document, name=f"{document.name}#{part}", spans=tuple(spans))
        for part, spans in enumerate(groups)
        if has_target(tuple(spans))
    ]

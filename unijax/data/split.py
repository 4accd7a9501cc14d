"""Documents that do not fit in a row: cut at the borders of spans, or dropped."""

import dataclasses

from unijax.core.errors import UserError
from unijax.core.stream import Layout
from unijax.data.document import (
    Document,
    Size,
    Span,
    beginning,
    document_size,
    has_target,
    span_size,
)


def fit(document: Document, limit: Size, layout: Layout, overlong: str) -> list[Document]:
    """The parts of a document that go into rows: the document itself where it fits.

    A part takes as many spans as fit, in order, and begins as every document does. A part in which
    nothing is learned (the masked prompt before a cut) is left out.

    Args:
      document: as rendered.
      limit: tokens of a row, and its image slots.
      layout: of the recipe.
      overlong: "split", or "drop": a document that does not fit gives no part.

    Raises:
      UserError: when splitting, a single span that is longer than a row.
    """
    if document_size(document, layout).within(limit):
        return [document] if has_target(document.spans, layout) else []
    if overlong == "drop":
        return []
    where = document.where or document.name
    groups: list[list[Span]] = [[]]
    used = start = beginning(layout)
    for span in document.spans:
        size = span_size(span, layout)
        if any(n > most for n, most in zip(size.slots, limit.slots)):
            raise UserError(
                where,
                f"an image of the role {span.role!r}",
                "rows with slots for such images",
                "Give the stream at least one slot, or choose another task for the source.",
            )
        if (start + size).tokens > limit.tokens:
            raise UserError(
                where,
                f"one span of {size.tokens} tokens",
                f"at most {limit.tokens - start.tokens}, a row without what documents begin with",
                "Lengthen the rows, shorten the text (a blank line ends a span), "
                "or let overlong='drop' leave such documents out.",
            )
        if not (used + size).within(limit):
            groups.append([])
            used = start
        groups[-1].append(span)
        used += size
    return [
        dataclasses.replace(document, name=f"{document.name}#{part}", spans=tuple(spans))
        for part, spans in enumerate(groups)
        if has_target(tuple(spans), layout)
    ]

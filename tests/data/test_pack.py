"""Packing and splitting against slow, obvious versions; what packing wastes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.packing import waste
from unijax.core.batch import Kind, Target
from unijax.core.errors import UserError
from unijax.core.stream import Layout, Stream
from unijax.data.document import (
    Document,
    ImageRef,
    ImageSpan,
    Size,
    TextSpan,
    beginning,
    document_size,
    empty,
    has_target,
    span_size,
)
from unijax.data.pack import Packer
from unijax.data.split import fit

LAYOUT = Layout(
    (
        Stream("und", "und", Kind.UND, tokens=4, size=8),
        Stream("gen", "gen", Kind.GEN, tokens=6, size=8, target=Target.CODE),
    )
)
UND, GEN = (ImageSpan(role, ImageRef("r", role.encode())) for role in ("und", "gen"))


def text(length, trained=True):
    return TextSpan((7,) * length, (float(trained),) * length)


spans = st.lists(
    st.one_of(
        st.builds(text, st.integers(1, 12), st.booleans()),
        st.sampled_from([UND, GEN]),
    ),
    max_size=10,
)
sizes = st.builds(Size, st.integers(1, 20), st.tuples(st.integers(0, 2), st.integers(0, 2)))


def pack_slowly(items, limit, open_rows):
    """The rule, said again, without a running count."""
    is_open, closed = [], []

    def used(row):
        """Tokens, and slots of either kind."""
        return [sum(of) for of in zip(*((size.tokens, *size.slots) for _, size in row))]

    def close(row):
        is_open.remove(row)
        closed.append(row)

    for item in items:
        good = [
            row
            for row in is_open
            if all(n <= most for n, most in zip(used([*row, item]), (limit.tokens, *limit.slots)))
        ]
        if good:
            row = sorted(good, key=lambda row: -used(row)[0])[0]
        else:
            if len(is_open) == open_rows:
                close(sorted(is_open, key=lambda row: -used(row)[0])[0])
            row = []
            is_open.append(row)
        row.append(item)
        if used(row)[0] == limit.tokens:
            close(row)
    return closed, is_open


@settings(max_examples=200, deadline=None)
@given(st.lists(sizes, max_size=60), st.integers(1, 5))
def test_packing_is_the_rule(item_sizes, open_rows):
    limit = Size(20, (2, 3))
    items = list(enumerate(item_sizes))
    packer = Packer(limit, open_rows)
    closed = [row for item, size in items for row in packer.add((item, size), size)]
    expected_closed, expected_open = pack_slowly(items, limit, open_rows)
    assert closed == expected_closed
    assert [row.items for row in packer.open] == expected_open
    assert len(packer.open) <= open_rows
    rows = [*closed, *(row.items for row in packer.open)]
    assert sorted(item for row in rows for item, _ in row) == list(range(len(items)))
    for row in rows:
        assert sum((size for _, size in row), start=empty(LAYOUT)).within(limit)


@pytest.mark.parametrize(
    ("ratio", "open_rows", "expected"),
    [((2, 3, 5), 1, 0.0955), ((2, 3, 5), 32, 0.003), ((5, 1, 4), 32, 0.029), ((5, 1, 4), 1, 0.093)],
)
def test_what_packing_wastes_on_a_janus_like_mix(ratio, open_rows, expected):
    share, rows = waste(ratio, open_rows)
    assert rows > 800
    assert share == pytest.approx(expected, abs=5e-4)


def split_slowly(document, limit):
    """Every way to cut a document at span borders that takes as much as it can at every step."""
    parts, rest = [], list(document.spans)
    while rest:
        take = 0
        while take < len(rest):
            candidate = Document("", tuple(rest[: take + 1]))
            if not document_size(candidate, LAYOUT).within(limit):
                break
            take += 1
        parts.append(tuple(rest[:take]))
        rest = rest[take:]
    return [part for part in parts if has_target(part, LAYOUT)]


@settings(max_examples=200, deadline=None)
@given(spans)
def test_splitting_cuts_at_span_borders_and_loses_only_what_is_not_learned(document_spans):
    limit = Size(20, (2, 2))
    document = Document("d", tuple(document_spans))
    parts = fit(document, limit, LAYOUT, "split")
    assert [part.spans for part in parts] == split_slowly(document, limit)
    learned = [span for span in document.spans if has_target((span,), LAYOUT)]
    kept = [span for part in parts for span in part.spans if has_target((span,), LAYOUT)]
    assert kept == learned
    for part in parts:
        assert document_size(part, LAYOUT).within(limit)
    if len(parts) > 1:
        assert len({part.uid for part in parts}) == len(parts)


@settings(max_examples=100, deadline=None)
@given(spans)
def test_dropping_keeps_a_document_whole_or_not_at_all(document_spans):
    limit = Size(20, (2, 2))
    document = Document("d", tuple(document_spans))
    parts = fit(document, limit, LAYOUT, "drop")
    good = document_size(document, LAYOUT).within(limit) and has_target(document.spans, LAYOUT)
    assert parts == ([document] if good else [])


def test_size_counts_the_first_token_and_the_marks_of_images():
    document = Document("d", (text(3), UND, text(2), GEN))
    assert document_size(document, LAYOUT) == Size(1 + 3 + (4 + 2) + 2 + (6 + 2), (1, 1))
    assert span_size(UND, LAYOUT) == Size(6, (1, 0))
    assert document_size(Document("d", ()), LAYOUT) == beginning(LAYOUT) == Size(1, (0, 0))


def test_size_counts_no_first_token_and_no_mark_where_there_is_none():
    marks = {"before": None, "after": None}
    both = (Stream(role, "images", Kind.GEN, 5, 8, **marks) for role in ("und", "gen"))
    layout = Layout(tuple(both), start=None)
    document = Document("d", (text(3), UND, GEN))
    assert document_size(document, layout) == Size(3 + 5 + 5, (2,))
    assert document_size(Document("d", ()), layout) == empty(layout) == Size(0, (0,))


def test_a_span_longer_than_a_row_is_an_error_that_names_the_document():
    limit = Size(20, (2, 2))
    document = Document("pages/0/7", (text(3), text(20), text(2)))
    with pytest.raises(UserError) as error:
        fit(document, limit, LAYOUT, "split")
    assert str(error.value) == (
        "pages/0/7: found one span of 20 tokens; "
        "expected at most 19, a row without what documents begin with. "
        "Lengthen the rows, shorten the text (a blank line ends a span), "
        "or let overlong='drop' leave such documents out."
    )
    assert fit(document, limit, LAYOUT, "drop") == []


def test_an_image_without_a_slot_is_an_error_that_names_the_document():
    document = Document("pages/0/7", (text(19), UND))
    with pytest.raises(UserError, match="pages/0/7: found an image of the role 'und'; expected"):
        fit(document, Size(20, (0, 2)), LAYOUT, "split")

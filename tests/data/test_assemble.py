"""Arrays of a row against a slow version that builds a list of tokens and shifts it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unijax.core.batch import Kind, Target
from unijax.core.stream import Layout, Mark, Stream
from unijax.core.vocab import SpecialIds
from unijax.data.assemble import FIELDS, assemble
from unijax.data.document import Document, ImageRef, ImageSpan, TextSpan, has_target

SPECIAL = SpecialIds(bos=1, eos=2, pad=0, boi=4, eoi=5, image_placeholder=6)
BOI, EOI = Mark("boi", learned=True), Mark("eoi", learned=True)
UND = Stream("und", "und", Kind.UND, tokens=4, size=8)
GEN = Stream("gen", "gen", Kind.GEN, tokens=6, size=8, target=Target.CODE)
JANUS = Layout((UND, GEN))


def shared(**how) -> tuple[Stream, Stream]:
    """Both roles in one array of slots."""
    return tuple(Stream(role, "images", Kind.GEN, 5, 8, **how) for role in ("und", "gen"))


# What a recipe may ask for.
LAYOUTS = {
    "given marks": JANUS,
    "learned marks, shared slots": Layout(shared(before=BOI, after=EOI, target=Target.CODE)),
    "noise behind a learned mark": Layout(
        shared(before=BOI, target=Target.NOISE, answers=(0, 0), t_max=0.5)
    ),
    "learned marks, no start": Layout(
        (
            Stream("und", "und", Kind.UND, 3, 8, before=BOI, after=EOI),
            Stream("gen", "gen", Kind.QUERY, 2, 8, before=None, after=EOI, target=Target.FEATURE,
                   answers=(0, -1)),
        ),
        start=None,
    ),
    "no marks, no start": Layout(
        (
            Stream("und", "a", Kind.UND, 1, 8, before=None, after=None),
            Stream("gen", "b", Kind.GEN, 4, 8, before=None, after=None, target=Target.CODE,
                   answers=(0, -1)),
        ),
        start=None,
    ),
}  # fmt: skip
layouts = st.sampled_from(list(LAYOUTS.values()))

texts = st.lists(
    st.tuples(st.integers(0, 50), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=8
).map(lambda pairs: TextSpan(*map(tuple, zip(*pairs))))
images = st.sampled_from(
    [ImageSpan("und", ImageRef("r", b"u", 7)), ImageSpan("gen", ImageRef("r", b"g", 8))]
)
spans = st.lists(st.one_of(texts, images), max_size=6)
documents = st.lists(spans, max_size=5).map(
    lambda lists: [Document(f"s/0/{i}", tuple(each)) for i, each in enumerate(lists)]
)


def assemble_slowly(row, length, layout):
    """One dict a token. `own` is what a position that precedes it would have to answer, `here` what
    its own position answers."""
    tokens, slots, image = [], dict.fromkeys(layout.slots, 0), 0
    nothing = (Target.NONE, 0, 0.0)
    for segment, document in enumerate(row, start=1):
        laid = []  # (kind, token, image, own, here)

        def text(token, weight):
            own = (Target.TEXT, token, weight) if weight else nothing
            laid.append((Kind.TEXT, token, 0, own, nothing))  # noqa: B023

        if layout.start:
            text(getattr(SPECIAL, layout.start), 0.0)
        for span in document.spans:
            if isinstance(span, TextSpan):
                for token, weight in zip(span.ids, span.weights):
                    text(token, weight)
                continue
            stream = layout.by_role[span.role]
            image += 1
            if stream.before:
                text(getattr(SPECIAL, stream.before.name), float(stream.before.learned))
            first, last = stream.answers
            for offset in range(stream.tokens):
                address = slots[stream.slots] * stream.tokens + offset
                own = here = nothing
                # The position that answers: this one, or the one before it.
                if stream.target == Target.NOISE and first <= offset < stream.tokens + last:
                    here = (Target.NOISE, address, 1.0)
                next_token = stream.target in (Target.CODE, Target.FEATURE)
                if next_token and first <= offset - 1 < stream.tokens + last:
                    own = (stream.target, address, 1.0)
                laid.append((stream.kind, address, image, own, here))
            if stream.after:
                text(getattr(SPECIAL, stream.after.name), float(stream.after.learned))
            slots[stream.slots] += 1
        for position, (kind, token, in_image, _, here) in enumerate(laid):
            after = laid[position + 1][3] if position + 1 < len(laid) else nothing
            assert nothing in (here, after)
            target_kind, target, weight = after if here == nothing else here
            tokens.append(
                {
                    "tokens": token, "kind": kind, "segment": segment, "position": position,
                    "image": in_image, "target_kind": target_kind, "target": target,
                    "weight": weight, "uid": document.uid,
                }
            )  # fmt: skip
    padding = dict.fromkeys(FIELDS, 0)
    return tokens + [padding] * (length - len(tokens))


@pytest.mark.parametrize("name", LAYOUTS)
def test_arrays_are_what_the_slow_version_says(name):
    layout = LAYOUTS[name]

    @settings(max_examples=80, deadline=None)
    @given(documents, st.integers(0, 9))
    def check(row, padding):
        slow = assemble_slowly(row, 0, layout)
        length = max(len(slow) + padding, 1)
        slow = assemble_slowly(row, length, layout)
        arrays = assemble(row, length, SPECIAL, layout)
        for field in FIELDS:
            wanted = [each[field] for each in slow]
            np.testing.assert_array_equal(getattr(arrays, field), wanted, field)
        order = [span for document in row for span in document.spans]
        shown = [span for span in order if isinstance(span, ImageSpan)]
        assert list(arrays.images) == list(layout.slots)
        for slots, held in arrays.images.items():
            assert held == [span for span in shown if layout.by_role[span.role].slots == slots]
        assert arrays.image_count == len(shown)

    check()


word = st.builds(TextSpan, st.just((7,)), st.sampled_from([(0.0,), (1.0,)]))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(word, images), max_size=2), layouts)
def test_a_document_has_a_target_where_a_position_answers(spans, layout):
    """Without a token that documents begin with, nothing answers with their first."""
    document = Document("d", tuple(spans))
    arrays = assemble([document], 20, SPECIAL, layout)
    assert has_target(document.spans, layout) == bool(arrays.weight.any())


@settings(max_examples=80, deadline=None)
@given(documents)
def test_rules_that_hold_for_every_row(row):
    arrays = assemble(row, 400, SPECIAL, JANUS)
    padding = arrays.kind == Kind.PAD
    used = int((~padding).sum())
    assert not padding[:used].any()  # padding stands at the end only
    for name in FIELDS:
        assert not getattr(arrays, name)[used:].any()
    none = arrays.target_kind == Target.NONE
    assert not arrays.weight[none].any()
    assert not arrays.target[none].any()
    # Each generated image is answered code by code, from its begin-of-image to its last but one.
    codes = np.flatnonzero(arrays.target_kind == Target.CODE)
    assert (arrays.target[codes] == np.arange(len(arrays.images["gen"]) * GEN.tokens)).all()
    begins = codes[:: GEN.tokens]
    assert (arrays.tokens[begins] == SPECIAL.boi).all()
    assert (arrays.kind[begins] == Kind.TEXT).all()
    # No position answers with a mark of an image, and none inside an image answers with text.
    inside = (arrays.kind == Kind.UND) | (arrays.kind == Kind.GEN)
    assert (arrays.target_kind[inside] != Target.TEXT).all()
    # The last token of a document answers nothing.
    ends = np.flatnonzero(np.diff(np.append(arrays.segment, 0)) != 0)
    assert (arrays.target_kind[ends] == Target.NONE).all()


@settings(max_examples=80, deadline=None)
@given(documents, layouts, st.data())
def test_a_documents_arrays_do_not_depend_on_its_row(row, layout, data):
    """Up to where it stands, and the slots of its images."""
    if not row:
        return
    arrays = assemble(row, 400, SPECIAL, layout)
    index = data.draw(st.integers(0, len(row) - 1))
    alone = assemble([row[index]], 400, SPECIAL, layout)
    here, there = arrays.segment == index + 1, alone.segment == 1
    for name in ("kind", "position", "target_kind", "weight", "uid"):
        np.testing.assert_array_equal(getattr(arrays, name)[here], getattr(alone, name)[there])
    text = alone.kind[there] == Kind.TEXT
    np.testing.assert_array_equal(arrays.tokens[here][text], alone.tokens[there][text])
    for stream in layout.streams:
        mine = arrays.tokens[here][arrays.kind[here] == stream.kind]
        own = alone.tokens[there][alone.kind[there] == stream.kind]
        np.testing.assert_array_equal(mine % stream.tokens, own % stream.tokens)
        held, held_alone = arrays.images[stream.slots], alone.images[stream.slots]
        pictures = [held[slot] for slot in mine // stream.tokens]
        assert pictures == [held_alone[slot] for slot in own // stream.tokens]


def test_an_example_by_hand():
    image = ImageSpan("gen", ImageRef("r", b""))
    document = Document("d", (TextSpan((11, 12), (0.0, 1.0)), image, TextSpan((2,), (1.0,))))
    row = assemble([document], 14, SPECIAL, JANUS)
    T, G, P = Kind.TEXT, Kind.GEN, Kind.PAD
    N, X, C = Target.NONE, Target.TEXT, Target.CODE
    #                 bos 11 12 boi        the image        eoi 2  pad pad
    assert [*row.tokens] == [1, 11, 12, 4, 0, 1, 2, 3, 4, 5, 5, 2, 0, 0]
    assert [*row.kind] == [T, T, T, T, G, G, G, G, G, G, T, T, P, P]
    assert [*row.target_kind] == [N, X, N, C, C, C, C, C, C, N, X, N, N, N]
    assert [*row.target] == [0, 12, 0, 0, 1, 2, 3, 4, 5, 0, 2, 0, 0, 0]
    assert [*row.weight] == [0, 1, 0, 1, 1, 1, 1, 1, 1, 0, 1, 0, 0, 0]


def test_noise_by_hand():
    """The answer of a patch is its own noise; both roles fill the slots in turn."""
    layout = LAYOUTS["noise behind a learned mark"]
    image = ImageRef("r", b"")
    spans = (ImageSpan("und", image), TextSpan((11,), (1.0,)), ImageSpan("gen", image))
    row = assemble([Document("d", spans)], 18, SPECIAL, layout)
    N, X, Z = Target.NONE, Target.TEXT, Target.NOISE
    #                     bos boi  the first image  eoi 11  boi the second image eoi pad pad
    assert [*row.tokens] == [1, 4, 0, 1, 2, 3, 4, 5, 11, 4, 5, 6, 7, 8, 9, 5, 0, 0]
    assert [*row.target_kind] == [X, N, Z, Z, Z, Z, Z, X, X, N, Z, Z, Z, Z, Z, N, N, N]
    assert [*row.target] == [4, 0, 0, 1, 2, 3, 4, 11, 4, 0, 5, 6, 7, 8, 9, 0, 0, 0]
    assert [*row.image] == [0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 2, 2, 2, 2, 2, 0, 0, 0]


def test_a_document_without_a_start_by_hand():
    """Its first token is an answer of nothing, and a mark behind an image one of its last token."""
    layout = LAYOUTS["learned marks, no start"]
    image = ImageSpan("und", ImageRef("r", b""))
    row = assemble([Document("d", (image, TextSpan((11,), (1.0,))))], 7, SPECIAL, layout)
    N, X = Target.NONE, Target.TEXT
    assert [*row.tokens] == [4, 0, 1, 2, 5, 11, 0]
    assert [*row.target_kind] == [N, N, N, X, X, N, N]
    assert [*row.target] == [0, 0, 0, 5, 11, 0, 0]
    assert [*row.position] == [0, 1, 2, 3, 4, 5, 0]

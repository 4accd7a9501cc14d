"""Arrays of a row against a slow version that builds a list of tokens and shifts it."""

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from unijax.core.batch import Kind, Target
from unijax.core.vocab import SpecialIds
from unijax.data.assemble import FIELDS, assemble
from unijax.data.document import Document, GenSpan, ImageRef, ImageTokens, TextSpan, UndSpan

IMAGES = ImageTokens(und=4, gen=6)
SPECIAL = SpecialIds(bos=1, eos=2, pad=0, boi=4, eoi=5, image_placeholder=6)

texts = st.lists(
    st.tuples(st.integers(0, 50), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=8
).map(lambda pairs: TextSpan(*map(tuple, zip(*pairs))))
spans = st.lists(
    st.one_of(
        texts,
        st.sampled_from([UndSpan(ImageRef("r", b"u", 7)), GenSpan(ImageRef("r", b"g", 8))]),
    ),
    max_size=6,
)
documents = st.lists(spans, max_size=5).map(
    lambda lists: [Document(f"s/0/{i}", tuple(each)) for i, each in enumerate(lists)]
)


def assemble_slowly(row, length):
    """One dict a token; `own` is what a position that precedes it would have to answer."""
    tokens, slots, image = [], {Kind.UND: 0, Kind.GEN: 0}, 0
    nothing = (Target.NONE, 0, 0.0)
    for segment, document in enumerate(row, start=1):
        own_tokens = [(Kind.TEXT, SPECIAL.bos, 0, nothing)]
        for span in document.spans:
            if isinstance(span, TextSpan):
                for token, weight in zip(span.ids, span.weights):
                    own = (Target.TEXT, token, weight) if weight else nothing
                    own_tokens.append((Kind.TEXT, token, 0, own))
                continue
            kind = Kind.UND if isinstance(span, UndSpan) else Kind.GEN
            count = IMAGES.und if kind == Kind.UND else IMAGES.gen
            image += 1
            own_tokens.append((Kind.TEXT, SPECIAL.boi, 0, nothing))
            for offset in range(count):
                address = slots[kind] * count + offset
                own = (Target.CODE, address, 1.0) if kind == Kind.GEN else nothing
                own_tokens.append((kind, address, image, own))
            own_tokens.append((Kind.TEXT, SPECIAL.eoi, 0, nothing))
            slots[kind] += 1
        answers = [own for *_, own in own_tokens[1:]] + [nothing]
        for position, ((kind, token, in_image, _), answer) in enumerate(zip(own_tokens, answers)):
            target_kind, target, weight = answer
            tokens.append(
                {
                    "tokens": token, "kind": kind, "segment": segment, "position": position,
                    "image": in_image, "target_kind": target_kind, "target": target,
                    "weight": weight, "uid": document.uid,
                }
            )  # fmt: skip
    padding = dict.fromkeys(FIELDS, 0)
    return tokens + [padding] * (length - len(tokens))


@settings(max_examples=150, deadline=None)
@given(documents, st.integers(0, 9))
def test_arrays_are_what_the_slow_version_says(row, padding):
    slow = assemble_slowly(row, 0)
    length = max(len(slow) + padding, 1)
    slow = assemble_slowly(row, length)
    arrays = assemble(row, length, SPECIAL, IMAGES)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(arrays, name), [each[name] for each in slow], name)
    order = [span for document in row for span in document.spans]
    assert arrays.und == [span.image for span in order if isinstance(span, UndSpan)]
    assert arrays.gen == [span.image for span in order if isinstance(span, GenSpan)]


@settings(max_examples=80, deadline=None)
@given(documents)
def test_rules_that_hold_for_every_row(row):
    arrays = assemble(row, 400, SPECIAL, IMAGES)
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
    assert (arrays.target[codes] == np.arange(len(arrays.gen) * IMAGES.gen)).all()
    begins = codes[:: IMAGES.gen]
    assert (arrays.tokens[begins] == SPECIAL.boi).all()
    assert (arrays.kind[begins] == Kind.TEXT).all()
    # No position answers with a mark of an image, and none inside an image answers with text.
    inside = (arrays.kind == Kind.UND) | (arrays.kind == Kind.GEN)
    assert (arrays.target_kind[inside] != Target.TEXT).all()
    # The last token of a document answers nothing.
    ends = np.flatnonzero(np.diff(np.append(arrays.segment, 0)) != 0)
    assert (arrays.target_kind[ends] == Target.NONE).all()


@settings(max_examples=80, deadline=None)
@given(documents, st.data())
def test_a_documents_arrays_do_not_depend_on_its_row(row, data):
    """Up to where it stands, and the slots of its images."""
    if not row:
        return
    arrays = assemble(row, 400, SPECIAL, IMAGES)
    index = data.draw(st.integers(0, len(row) - 1))
    alone = assemble([row[index]], 400, SPECIAL, IMAGES)
    here, there = arrays.segment == index + 1, alone.segment == 1
    for name in ("kind", "position", "target_kind", "weight", "uid"):
        np.testing.assert_array_equal(getattr(arrays, name)[here], getattr(alone, name)[there])
    text = alone.kind[there] == Kind.TEXT
    np.testing.assert_array_equal(arrays.tokens[here][text], alone.tokens[there][text])
    for kind, count, name in ((Kind.UND, IMAGES.und, "und"), (Kind.GEN, IMAGES.gen, "gen")):
        mine = arrays.tokens[here][arrays.kind[here] == kind]
        own = alone.tokens[there][alone.kind[there] == kind]
        np.testing.assert_array_equal(mine % count, own % count)
        pictures = [getattr(arrays, name)[slot].raw for slot in mine // count]
        assert pictures == [getattr(alone, name)[slot].raw for slot in own // count]


def test_an_example_by_hand():
    document = Document(
        "d", (TextSpan((11, 12), (0.0, 1.0)), GenSpan(ImageRef("r", b"")), TextSpan((2,), (1.0,)))
    )
    row = assemble([document], 14, SPECIAL, IMAGES)
    T, G, P = Kind.TEXT, Kind.GEN, Kind.PAD
    N, X, C = Target.NONE, Target.TEXT, Target.CODE
    #                 bos 11 12 boi        the image        eoi 2  pad pad
    assert [*row.tokens] == [1, 11, 12, 4, 0, 1, 2, 3, 4, 5, 5, 2, 0, 0]
    assert [*row.kind] == [T, T, T, T, G, G, G, G, G, G, T, T, P, P]
    assert [*row.target_kind] == [N, X, N, C, C, C, C, C, C, N, X, N, N, N]
    assert [*row.target] == [0, 12, 0, 0, 1, 2, 3, 4, 5, 0, 2, 0, 0, 0]
    assert [*row.weight] == [0, 1, 0, 1, 1, 1, 1, 1, 1, 0, 1, 0, 0, 0]
    assert dataclasses.fields(row)[0].name == "tokens"

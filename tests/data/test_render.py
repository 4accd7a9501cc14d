"""Documents: what is learned, the dropped condition, chance that belongs to the document."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.conftest import GEN, LAYOUT, UND, make_records
from unijax.core.stream import Layout
from unijax.data.document import ImageRef, ImageSpan, TextSpan, document_size
from unijax.data.render import (
    DocumentKey,
    RenderConfig,
    drop_condition,
    last_made,
    render,
    to_spans,
    with_sources,
)
from unijax.data.tasks import TASKS, may_show
from unijax.data.templates import TEMPLATES, Break, Eos, Image, Role, Text

CONFIG = RenderConfig(LAYOUT, TEMPLATES["janus_pro"], p_first_sentence=0.0, p_drop_condition=0.0)
KEY = DocumentKey("source", 0, 3)
RECORDS = make_records()
PICTURE, PAGE, TEXT = RECORDS["ask"][0], RECORDS["pages"][0], RECORDS["text"][2]
CHAT = {
    "id": "c",
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [b"picture", "\nwhat?"]},
        {"role": "assistant", "content": "a cat"},
        {"role": "user", "content": "where?"},
        {"role": "assistant", "content": "on a mat"},
    ],
}
DRAW = {
    "id": "d",
    "messages": [
        {"role": "user", "content": "draw a cat"},
        {"role": "assistant", "content": [b"cat"]},
        {"role": "user", "content": [b"hat", "\nput this on"]},
        {"role": "assistant", "content": ["here:", b"cat in hat", " nice?"]},
    ],
    "drawings": 2,
}
RECORD_OF = {"text": TEXT, "page": PAGE, "chat": CHAT, "draw": DRAW}


def ids_of(tokenizer, document):
    """What the model reads, images as one letter each: and the trained part of the text."""
    read, learned = [tokenizer.special.bos], []
    for span in document.spans:
        if isinstance(span, TextSpan):
            read += span.ids
            learned += [i for i, weight in zip(span.ids, span.weights) if weight]
        else:
            read += [tokenizer.special.boi, {"und": "U", "gen": "G"}[span.role]]
            read += [tokenizer.special.eoi]
    return read, learned


def test_understanding_is_the_table_of_the_specification(tokenizer):
    special, tokens = tokenizer.special, tokenizer.tokens
    record = PICTURE | {"questions": [{"question": "what is shown?", "answer": "a cat"}]}
    read, learned = ids_of(tokenizer, render(record, "question", KEY, tokenizer, CONFIG))
    answer = [*tokenizer.encode(" a cat"), special.eos]
    assert read == [
        special.bos, tokens["<|User|>"], *tokenizer.encode(": "), special.boi, "U", special.eoi,
        *tokenizer.encode("\nwhat is shown?\n\n"), tokens["<|Assistant|>"],
        *tokenizer.encode(":"), *answer,
    ]  # fmt: skip
    assert learned == answer


def test_generation_is_the_table_of_the_specification(tokenizer):
    special, tokens = tokenizer.special, tokenizer.tokens
    record = PICTURE | {"captions": ["a red cat"]}
    read, learned = ids_of(tokenizer, render(record, "generate", KEY, tokenizer, CONFIG))
    assert read == [
        special.bos, tokens["<|User|>"], *tokenizer.encode(": a red cat\n\n"),
        tokens["<|Assistant|>"], *tokenizer.encode(":"), special.boi, "G", special.eoi,
    ]  # fmt: skip
    assert learned == []


def test_conversations_learn_the_assistants_turns_and_their_ends(tokenizer):
    _, learned = ids_of(tokenizer, render(CHAT, "chat", KEY, tokenizer, CONFIG))
    eos = tokenizer.special.eos
    assert learned == [
        *tokenizer.encode(" a cat"), eos, *tokenizer.encode(" on a mat"), eos
    ]  # fmt: skip


def test_pretraining_learns_all_text_and_its_end(tokenizer):
    for record, task in ((TEXT, "text"), (PICTURE, "caption"), (PAGE, "page")):
        document = render(record, task, KEY, tokenizer, CONFIG)
        text = [span for span in document.spans if isinstance(span, TextSpan)]
        assert all(all(span.weights) for span in text)
        assert text[-1].ids[-1] == tokenizer.special.eos


@pytest.mark.parametrize("task", sorted(TASKS))
def test_special_ids_stand_only_where_templates_put_them(task, tokenizer):
    """Every text of the record spells every special token."""
    spell = " ".join(tokenizer.tokens)

    def spoil(value):
        if isinstance(value, str):
            return value + spell.replace("<image_placeholder>", "")
        if isinstance(value, list):
            return [spoil(item) for item in value]
        if isinstance(value, dict):
            return {k: v if k == "role" else spoil(v) for k, v in value.items()}
        return value

    record = RECORD_OF.get(task, PICTURE)
    plain, _ = ids_of(tokenizer, render(record, task, KEY, tokenizer, CONFIG))
    spoiled, _ = ids_of(tokenizer, render(spoil(record), task, KEY, tokenizer, CONFIG))
    special = {*tokenizer.tokens.values(), "U", "G"}
    assert [i for i in spoiled if i in special] == [i for i in plain if i in special]
    assert len(spoiled) > len(plain)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_task_shows_images_of_its_stream_alone(task, tokenizer):
    records = [CHAT, DRAW] if task == "chat" else [RECORD_OF.get(task, PICTURE)]
    spans = [s for r in records for s in render(r, task, KEY, tokenizer, CONFIG).spans]
    shown = {span.role for span in spans if isinstance(span, ImageSpan)}
    for role in ("und", "gen"):
        assert (role in shown) == may_show(task, role)


def test_roles_without_a_token_are_text(tokenizer):
    config = dataclasses.replace(CONFIG, template=TEMPLATES["janus"])
    record = PICTURE | {"captions": ["a red cat"]}
    read, _ = ids_of(tokenizer, render(record, "generate", KEY, tokenizer, config))
    prompt = tokenizer.encode("User: a red cat\n\nAssistant:")
    assert read == [
        tokenizer.special.bos,
        *prompt,
        tokenizer.special.boi,
        "G",
        tokenizer.special.eoi,
    ]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.one_of(
    st.builds(Text, st.sampled_from(["a", " cat", "\n\n", ": "]), st.booleans()),
    st.builds(Eos, st.booleans()),
    st.sampled_from([Role("<|User|>"), Role("User"), Break(), Image("und", ImageRef("r", b""))]),
), max_size=12))  # fmt: skip
def test_spans_keep_every_piece_and_its_training(tokenizer, pieces):
    spans = to_spans(pieces, tokenizer)
    special, tokens = tokenizer.special, tokenizer.tokens
    flat = []
    for span in spans:
        if isinstance(span, TextSpan):
            assert span.ids
            flat += zip(span.ids, map(bool, span.weights))
        else:
            flat.append(("image", False))
    # Slowly: one character at a time, decoded on both sides.
    said, wanted = [], []
    for token, trained in flat:
        known = token == "image" or token in tokens.values()
        said += [(token, trained)] if known else [(c, trained) for c in tokenizer.decode([token])]
    for piece in pieces:
        match piece:
            case Text(text, trained):
                wanted += [(c, trained) for c in text]
            case Role(name):
                wanted += [(tokens[name], False)] if name in tokens else [(c, False) for c in name]
            case Eos(trained):
                wanted.append((special.eos, trained))
            case Image():
                wanted.append(("image", False))
    assert said == wanted


def test_a_dropped_condition_is_pad_up_to_the_last_begin_of_image(tokenizer):
    dropped = dataclasses.replace(CONFIG, p_drop_condition=1.0)
    pad = tokenizer.special.pad
    for task in ("generate", "caption_to_image", "category_to_image"):
        kept = render(PICTURE, task, KEY, tokenizer, CONFIG)
        lost = render(PICTURE, task, KEY, tokenizer, dropped)
        assert document_size(kept, LAYOUT) == document_size(lost, LAYOUT)
        read, learned = ids_of(tokenizer, lost)
        before = document_size(kept, LAYOUT).tokens - 1 - (GEN.tokens + 2)
        special = tokenizer.special
        assert read == [special.bos, *[pad] * before, special.boi, "G", special.eoi]
        assert learned == []
    for task in ("question", "name", "image_to_caption"):
        document = render(PICTURE, task, KEY, tokenizer, dropped)
        assert all(pad not in s.ids for s in document.spans if isinstance(s, TextSpan))


def test_what_follows_a_picture_without_its_condition_is_left_out(tokenizer):
    """A question about a picture whose prompt is gone would teach to answer anything."""
    more = [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "so"}]
    record = DRAW | {"messages": [*DRAW["messages"], *more]}
    dropped = dataclasses.replace(CONFIG, p_drop_condition=1.0)
    document = render(record, "draw", KEY, tokenizer, dropped)
    assert document.spans[-1].role == "gen"
    assert document.spans[-1].image.raw == b"cat in hat"
    assert {i for span in document.spans[:-1] for i in span.ids} == {tokenizer.special.pad}
    kept = render(record, "draw", KEY, tokenizer, CONFIG)
    at = last_made(kept.spans)
    before = [dataclasses.replace(d, spans=d.spans[:at]) for d in (kept, document)]
    assert document_size(before[0], LAYOUT).tokens == document_size(before[1], LAYOUT).tokens


def test_drawing_in_a_conversation_learns_codes_and_the_words_around_them(tokenizer):
    read, learned = ids_of(tokenizer, render(DRAW, "draw", KEY, tokenizer, CONFIG))
    special, tokens = tokenizer.special, tokenizer.tokens
    ask, say = tokens["<|User|>"], tokens["<|Assistant|>"]
    picture = [special.boi, "G", special.eoi]
    assert read == [
        special.bos, ask, *tokenizer.encode(": draw a cat\n\n"), say, *tokenizer.encode(":"),
        *picture, special.eos, ask, *tokenizer.encode(": "), special.boi, "U", special.eoi,
        *tokenizer.encode("\nput this on\n\n"), say, *tokenizer.encode(":"),
        *tokenizer.encode(" here:"), *picture, *tokenizer.encode(" nice?"), special.eos,
    ]  # fmt: skip
    assert learned == [
        special.eos, *tokenizer.encode(" here:"), *tokenizer.encode(" nice?"), special.eos
    ]  # fmt: skip


def test_an_image_in_the_condition_is_dropped_too():
    image = ImageRef("r", b"")
    text = TextSpan((5, 6), (1.0, 0.0))
    spans = [text, ImageSpan("und", image), text, ImageSpan("gen", image)]
    spans = drop_condition(spans, 3, 9, LAYOUT)
    assert [len(s.ids) for s in spans[:-1]] == [2, UND.tokens + 2, 2]
    assert all(set(s.ids) == {9} and not any(s.weights) for s in spans[:-1])
    assert spans[-1] == ImageSpan("gen", image)


def test_an_empty_condition_leaves_the_image_alone():
    empty = Layout((UND, dataclasses.replace(GEN, unconditional="empty")))
    image, text = ImageRef("r", b""), TextSpan((5, 6), (1.0, 0.0))
    spans = [text, ImageSpan("und", image), text, ImageSpan("gen", image), text]
    assert drop_condition(spans, 3, 9, empty) == spans[3:4]
    assert drop_condition(spans, 3, 9, LAYOUT)[3:] == spans[3:4]


def test_words_and_pictures_are_left_out_as_the_released_code_does(tokenizer):
    """Of one draw: words on [0, 0.2), pictures on [0.1, 0.3), both where these meet."""
    words = Layout((UND, dataclasses.replace(GEN, unconditional="words")))
    config = RenderConfig(words, TEMPLATES["janus_pro"], 0.0, 0.2, False, 0, 0.2, 0.1)
    record = {
        "id": "e",
        "messages": [
            {"role": "user", "content": [b"hat", "put this on"]},
            {"role": "assistant", "content": [b"cat in hat"]},
        ],
        "drawings": 1,
    }
    key = lambda i: DocumentKey("s", 0, i)  # noqa: E731
    whole = render(record, "draw", key(0), tokenizer, dataclasses.replace(
        config, p_drop_condition=0.0, p_drop_images=0.0, p_drop_both=0.0))  # fmt: skip
    asked = to_spans(TEMPLATES["janus_pro"].asking([ImageRef("r", b"hat")], ""), tokenizer)
    counts = dict.fromkeys(((True, True), (True, False), (False, True), (False, False)), 0)
    for i in range(3000):
        spans = render(record, "draw", key(i), tokenizer, config).spans
        shown, made = (s for s in spans if isinstance(s, ImageSpan))
        assert (shown.role, made.role) == ("und", "gen")
        assert made.image.raw == b"cat in hat"
        has_picture = isinstance(shown.image.raw, bytes)
        assert has_picture or not shown.image.raw.any()
        ids = [s.ids for s in spans if isinstance(s, TextSpan)]
        has_words = ids == [s.ids for s in whole.spans if isinstance(s, TextSpan)]
        if not has_words:
            assert spans[-1] is made
            assert ids == [s.ids for s in asked if isinstance(s, TextSpan)]
        counts[has_words, has_picture] += 1
    for both, share in ((True, True), 0.7), ((False, True), 0.1), ((True, False), 0.1):
        assert abs(counts[both] / 3000 - share) < 0.034, counts  # four standard deviations


def test_conditions_are_dropped_as_often_as_told(tokenizer):
    config = dataclasses.replace(CONFIG, p_drop_condition=0.1)
    pad = tokenizer.special.pad
    lost = sum(
        pad in render(PICTURE, "category_to_image", DocumentKey("s", 0, i), tokenizer, config)
        .spans[0].ids
        for i in range(3000)
    )  # fmt: skip
    assert abs(lost / 3000 - 0.1) < 0.022  # four standard deviations


def test_chance_belongs_to_seed_source_epoch_and_index(tokenizer):
    config = dataclasses.replace(CONFIG, p_first_sentence=0.5, p_drop_condition=0.5)

    def drawn(key, seed=0):
        config_ = dataclasses.replace(config, seed=seed)
        document = render(PICTURE, "generate", key, tokenizer, config_)
        return ids_of(tokenizer, document)[0], [
            s.image.seed for s in document.spans if hasattr(s, "image")
        ]

    keys = [DocumentKey(s, e, i) for s in ("a", "b") for e in (0, 1) for i in range(4)]
    first = [drawn(key) for key in keys]
    assert first == [drawn(key) for key in keys]
    assert len({seeds[0] for _, seeds in first}) == len(keys)
    assert all(0 <= seeds[0] < 2**32 for _, seeds in first)
    assert first != [drawn(key, seed=1) for key in keys]
    assert len({tuple(map(str, ids)) for ids, _ in first}) > 1


def test_lengths_are_known_without_reading_a_picture(tokenizer):
    def fail():
        raise AssertionError("read")

    record = PICTURE | {"image": fail}
    for task in ("question", "generate", "describe", "image_to_caption"):
        assert document_size(render(record, task, KEY, tokenizer, CONFIG), LAYOUT).tokens > 5


def test_keys_of_pictures_are_their_content():
    assert ImageRef("a", b"x").key == ImageRef("b", lambda: b"x", seed=3).key
    assert ImageRef("a", b"x").key != ImageRef("a", b"y").key
    black = np.zeros((2, 4, 3), np.uint8)
    assert ImageRef("a", black).key == ImageRef("b", lambda: black.copy()).key
    keys = {ImageRef("a", x).key for x in (black, black + 1, black.reshape(4, 2, 3))}
    assert len(keys) == 3


def test_what_is_shown_before_a_picture_to_draw_is_its_source():
    """Where the recipe has that role: such a picture is neither noised nor learned."""
    source = dataclasses.replace(UND, role="source")
    image, text = ImageRef("r", b""), TextSpan((5,), (1.0,))
    shown = [ImageSpan("und", image), text, ImageSpan("gen", image)]
    edited = [ImageSpan("source", image), text, ImageSpan("gen", image)]
    assert with_sources(shown, Layout((UND, GEN, source))) == edited
    assert with_sources(shown, LAYOUT) == shown

"""Documents longer than a row: left out, or split."""

import pytest

from tests.data.conftest import LAYOUT, RECORDS, small_config, stream
from unijax.core.errors import UserError
from unijax.data.config import GroupConfig, SourceConfig
from unijax.data.loader import Loader

LONG = {"id": "long", "text": "\n\n".join(["a cat on a mat is red and a dog is blue"] * 12)}


def test_overlong_documents_are_dropped_and_counted(tokenizer):
    records = RECORDS | {"text": [LONG, *RECORDS["text"][:3]]}
    loader = Loader(small_config(overlong="drop"), LAYOUT, tokenizer, records)
    for _ in range(6):
        next(loader)
    dropped = loader.info.metrics["documents_left_out"]
    drawn = loader.get_state()["sources"]["text"]
    assert dropped == drawn[3] > 0
    assert drawn[0] - dropped == drawn[1]
    assert abs(dropped - drawn[0] / 4) <= 1
    assert not any("text" in name and name.endswith("/0") for name in loader.info.names.values())


def test_overlong_documents_are_split_and_whole_again(tokenizer):
    records = RECORDS | {"text": [LONG]}
    rows = stream(tokenizer, records, overlong="split")
    while True:
        parts = rows.next_document()
        if parts[0].source == "text":
            break
    assert len(parts) > 1
    texts = [
        tokenizer.decode([i for span in placed.document.spans for i in span.ids])
        for placed in parts
    ]
    assert "".join(texts) == LONG["text"]
    assert [placed.document.name for placed in parts] == [
        f"text/0/0#{part}" for part in range(len(parts))
    ]


def test_an_overlong_record_of_two_is_not_taken_for_a_source_without_any_that_fits(tokenizer):
    """The last of one epoch and the first of the next may both be the long one."""
    for seed in range(4):
        rows = stream(tokenizer, RECORDS | {"text": [LONG, RECORDS["text"][0]]}, seed=seed)
        for _ in range(60):
            next(rows)
        assert rows.dropped["text"] > 5


TURNS = [
    {"role": "user", "content": [RECORDS["ask"][0]["image"], " what is on the mat?"]},
    {"role": "assistant", "content": "a cat"},
    {"role": "user", "content": "is it red? " * 12},
    {"role": "assistant", "content": "a red cat on a mat"},
]


@pytest.mark.parametrize("task", ["chat", "question"])
def test_a_picture_and_its_answer_are_never_cut_apart(tokenizer, task):
    """What is left of such a document would teach answers to nothing."""
    ask = RECORDS["ask"][0]
    long = {"id": "long", "image": ask["image"], "questions": [
        {"question": "what is shown? " * 12, "answer": "a cat"}
    ], "messages": TURNS}  # fmt: skip
    short = ask | {"messages": TURNS[:2]}
    groups = (GroupConfig("und", 1.0, (SourceConfig("ask", task),)),)
    rows = stream(tokenizer, {"ask": [long, short]}, overlong="split", row_length=48, groups=groups)
    for _ in range(20):
        for placed in next(rows):
            assert "#" not in placed.document.name
            assert any(getattr(span, "role", None) == "und" for span in placed.document.spans)
    assert rows.dropped["ask"] > 5


def test_advice_to_split_is_given_where_it_helps(tokenizer):
    with pytest.raises(UserError, match="or set overlong='split'"):
        next(stream(tokenizer, RECORDS | {"text": [LONG]}))
    groups = (GroupConfig("und", 1.0, (SourceConfig("ask", "question"),)),)
    with pytest.raises(UserError) as error:
        next(stream(tokenizer, row_length=12, groups=groups))
    assert "split" not in str(error.value)


def test_a_source_with_nothing_that_fits_says_so(tokenizer):
    with pytest.raises(UserError) as error:
        next(stream(tokenizer, RECORDS | {"text": [LONG]}, overlong="drop"))
    assert str(error.value).startswith("source text: found no document that fits, in 1; expected")
    with pytest.raises(UserError, match="source text: found no records"):
        stream(tokenizer, RECORDS | {"text": []})

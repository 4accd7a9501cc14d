"""Rendered and packed rows as text: a golden that a reviewer reads as a diff."""

import dataclasses
import os
import pathlib
import re

import pytest

from tests.data.conftest import LAYOUT, make_records, small_config
from unijax.core.batch import Kind, Target
from unijax.core.errors import UserError
from unijax.core.stream import Layout, Mark, Stream
from unijax.data import tokenizer as tokenizer_lib
from unijax.data.config import GroupConfig, SourceConfig
from unijax.data.document import Document, ImageRef, ImageSpan
from unijax.data.rows import Placed, RowStream
from unijax.data.show import show, show_row
from unijax.data.sources import open_sources

TEXT_ALONE = (
    small_config(groups=(GroupConfig("text", 1.0, (SourceConfig("text", "text"),)),), slots={}),
    make_records(),
)
GOLDEN = pathlib.Path("tests/golden/packed_rows.txt")


def config():
    """Every task once: und 6, text 3, gen 3, in samples."""
    records = make_records()
    pictures = records["ask"]
    chat = {
        "id": "c0",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [pictures[0]["image"], "\nwhat is it? <|Assistant|>"]},
            {"role": "assistant", "content": "a cat"},
            {"role": "user", "content": ["and here: ", pictures[1]["image"], "?"]},
            {"role": "assistant", "content": "two red trees"},
        ],
    }
    und = ("question", "describe", "name", "category", "keywords", "image_to_caption")
    gen = ("caption_to_image", "category_to_image", "generate", "draw")
    draw = {
        "id": "d0",
        "messages": [
            {"role": "user", "content": "draw a cat"},
            {"role": "assistant", "content": [pictures[2]["image"]]},
            {"role": "user", "content": [pictures[3]["image"], "\non this mat"]},
            {"role": "assistant", "content": ["here: ", pictures[4]["image"], " nice?"]},
        ],
        "drawings": 2,
    }
    groups = (
        GroupConfig("und", 6.0, tuple(SourceConfig(f"u-{task}", task) for task in und)),
        GroupConfig(
            "text", 3.0,
            tuple(
                SourceConfig(name, task)
                for name, task in (("text", "text"), ("pages", "page"), ("chat", "chat"))
            ),
        ),
        GroupConfig("gen", 3.0, tuple(SourceConfig(f"g-{task}", task) for task in gen)),
    )  # fmt: skip
    sources = {f"u-{task}": pictures for task in und} | {f"g-{task}": pictures for task in gen}
    sources |= {"text": records["text"], "pages": records["pages"], "chat": [chat]}
    sources["g-draw"] = [draw]
    slots = {"und": 8, "gen": 4}
    return small_config(groups=groups, row_length=160, slots=slots, p_drop_condition=0.3), sources


def test_packed_rows_are_the_golden():
    """Rewritten by UNIJAX_GOLDEN=write."""
    settings, sources = config()
    tokenizer = tokenizer_lib.load("assets/tokenizer")
    text = show(settings, LAYOUT, tokenizer, 6, sources) + "\n"
    for name in sources:
        assert f"{name}/0/" in text  # every task is there to be read
    if os.environ.get("UNIJAX_GOLDEN") == "write":
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_what_is_shown_is_what_the_arrays_hold(tokenizer):
    settings, sources = config()
    text = show(settings, LAYOUT, tokenizer, 3, sources)
    rows = re.findall(r"row \d+: (\d+) of (\d+) tokens", text)
    lengths = list(map(int, re.findall(r", (\d+) tokens, uid", text)))
    assert len(rows) == 3
    assert sum(int(used) for used, _ in rows) == sum(lengths)
    padding = 1 - sum(lengths) / sum(int(length) for _, length in rows)
    assert f"padding {padding:.1%}" in text
    for learned in re.findall(r"»(.*?)«", text):
        assert "User" not in learned
        assert "und image" not in learned


def test_an_image_is_shown_by_its_role_and_learned_where_its_stream_answers(tokenizer):
    """Images of any role in shared slots; noise is an answer at its own position."""
    clean = Stream("before", "image", Kind.GEN, 4, 8)
    noised = Stream(
        "after", "image", Kind.GEN, 4, 8, before=Mark("boi", learned=True), target=Target.NOISE,
        answers=(0, 0),
    )  # fmt: skip
    coded = Stream("codes", "codes", Kind.GEN, 9, 24, target=Target.CODE, answers=(0, -1))
    layout = Layout((clean, noised, coded))
    spans = tuple(
        ImageSpan(role, ImageRef("", b"")) for role in ("before", "after", "codes", "after")
    )
    settings, records = TEXT_ALONE
    settings = dataclasses.replace(settings, row_length=40, slots={"image": 3, "codes": 1})
    stream = RowStream(settings, layout, open_sources(settings, layout, tokenizer, records))
    row = [Placed(Document("d", spans), "text", 0, 0)]
    fill, _, text = show_row(row, 0, stream, tokenizer)
    assert fill == "row 0: 30 of 40 tokens (75%), images: 1 before, 2 after, 1 codes"
    mark = r"⟨begin_of_image⟩"
    assert re.sub(r"^ *⟨[^⟩]*⟩", "", text) == (
        mark + "{before image 1, slot 0: 0..3}⟨end_of_image⟩"
        f"»{mark}«»{{after image 2, slot 1: 4..7}}«⟨end_of_image⟩"
        f"{mark}{{codes image 3, slot 0: 0..0}}»{{codes image 3, slot 0: 1..8}}«⟨end_of_image⟩"
        f"»{mark}«»{{after image 4, slot 2: 8..11}}«⟨end_of_image⟩"
    )


def test_rows_without_images_are_shown(tokenizer):
    settings, records = TEXT_ALONE
    assert re.search(r"row 0: .*%\)$", show(settings, Layout(), tokenizer, 1, records), re.M)


def test_a_bad_config_is_refused(tokenizer):
    settings, sources = config()
    with pytest.raises(UserError, match=r"data\.unit"):
        show(small_config(unit="rows"), LAYOUT, tokenizer, 1, sources)
    assert settings.rows == 4

"""Rendered and packed rows as text: a golden that a reviewer reads as a diff."""

import os
import pathlib
import re

import pytest

from tests.data.conftest import LAYOUT, make_records, small_config
from unijax.core.errors import UserError
from unijax.data import tokenizer as tokenizer_lib
from unijax.data.config import GroupConfig, SourceConfig
from unijax.data.show import show

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


def test_a_bad_config_is_refused(tokenizer):
    settings, sources = config()
    with pytest.raises(UserError, match=r"data\.unit"):
        show(small_config(unit="rows"), LAYOUT, tokenizer, 1, sources)
    assert settings.rows == 4

"""CLIP's tokenizer against open_clip's, which is OpenAI's."""

import lzma
import shutil

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.oracles import open_clip
from unijax.core.errors import UserError
from unijax.core.paths import assets_dir
from unijax.data.clip_tokenizer import CONTEXT, MERGES_FILE, ClipTokenizer

OURS = ClipTokenizer()
THEIRS = open_clip.tokenizer.SimpleTokenizer()

WORDS = st.sampled_from(
    ["a photo of", "Dogs'", "it's", "I'LL", "&amp;amp;", "&lt;b&gt;", "&#233;t&eacute;", "Ünïcödé",
     "日本語", "12.5%", "ﬁne", "schÃ¶n", "“quoted”", "\u00a0", "\t\n", "🙂🏽", "e\u0301", "</w>",
     "ſ'ſ"]
)  # fmt: skip
TEXT = st.text(max_size=40) | st.lists(WORDS | st.text(max_size=3), max_size=8).map(" ".join)


@settings(max_examples=300, deadline=None)
@given(TEXT)
@example("")
@example("   ")
@example("A diagram of the 3rd-best CAT's   dinner, isn't it?")
def test_ids_and_texts_are_open_clips(text):
    ids = OURS.encode(text)
    assert ids == THEIRS.encode(text)
    assert OURS.decode(ids) == THEIRS.decode(ids)


@settings(max_examples=100, deadline=None)
@given(st.lists(WORDS, max_size=40).map(" ".join), st.sampled_from([2, 3, 16, CONTEXT]))
def test_long_texts_are_cut_and_keep_their_end(text, length):
    row = np.zeros(length, np.int64)
    ids = OURS.caption(text, length)
    row[: len(ids)] = ids
    np.testing.assert_array_equal(row, THEIRS(text, context_length=length)[0])
    assert (ids[0], ids[-1]) == (OURS.start, OURS.end)
    assert (
        ids.index(OURS.end) == len(ids) - 1
    )  # the largest id, where towers read the text's vector


def test_the_vocabulary_is_clips():
    assert (OURS.vocab_size, OURS.start, OURS.end) == (49408, 49406, 49407)
    for i in range(0, OURS.start, 7):
        assert OURS.decode([i]) == THEIRS.decode([i])


def test_marks_that_a_text_spells_stay_text():
    """open_clip makes them marks, and a caption could end itself."""
    text = "a <end_of_text> cat <START_OF_TEXT>"
    assert THEIRS.eot_token_id in THEIRS.encode(text)
    ids = OURS.encode(text)
    assert max(ids) < OURS.start
    assert OURS.decode(ids) == "a < end _ of _ text > cat < start _ of _ text > "


def test_marks_say_nothing():
    assert OURS.decode(OURS.caption("Two Cats")) == "two cats "


def test_a_missing_or_damaged_list_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIJAX_ASSETS", str(tmp_path))
    with pytest.raises(UserError, match=MERGES_FILE):
        ClipTokenizer()
    folder = tmp_path / "tokenizer" / "clip"
    folder.mkdir(parents=True)
    (folder / MERGES_FILE).write_bytes(b"no xz file")
    with pytest.raises(UserError, match="expected the shipped list of merges"):
        ClipTokenizer()
    (folder / MERGES_FILE).write_bytes(lzma.compress(b"i n\nt h"))
    with pytest.raises(UserError, match="found 2 lines; expected 48894 pairs"):
        ClipTokenizer()
    monkeypatch.undo()
    shutil.copyfile(assets_dir() / "tokenizer" / "clip" / MERGES_FILE, folder / MERGES_FILE)
    monkeypatch.setenv("UNIJAX_ASSETS", str(tmp_path))
    assert ClipTokenizer().encode("cat") == OURS.encode("cat")

"""Text files: encodings, ends of lines, and what would stop a run long after they were opened."""

import json

import numpy as np
import pytest

from tests.data.conftest import LAYOUT, png, small_config
from unijax.core.errors import UserError
from unijax.data.config import GroupConfig, SourceConfig
from unijax.data.loader import Loader
from unijax.data.user import open_folder, open_jsonl, text

BOM = b"\xef\xbb\xbf"


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(png(rng))
    return tmp_path


def captions(folder) -> list:
    return [record["captions"] for record in open_folder(folder, "describe")]


def test_a_byte_order_mark_is_no_part_of_a_caption(folder):
    (folder / "a.txt").write_bytes(BOM + b"a cat\r\n" + BOM + b"two\n")
    (folder / "b.txt").write_bytes(b"a dog")
    assert captions(folder) == [["a cat", "two"], ["a dog"]]


@pytest.mark.parametrize("inside", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r"])
def test_a_caption_ends_where_a_line_feed_is(folder, inside):
    one = f"a cat{inside}on a mat"
    (folder / "a.txt").write_bytes(f"{one}\r\n\r\nanother\r\n".encode())
    (folder / "b.txt").write_bytes(f"{one}\nanother".encode())
    assert captions(folder) == [[one, "another"]] * 2
    for name in "ab":
        (folder / f"{name}.txt").unlink()
    rows = [{"file_name": f"{name}.png", "text": one} for name in "ab"]
    written = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "metadata.jsonl").write_text(written, newline="")
    assert captions(folder) == [[one]] * 2
    (folder / "metadata.jsonl").unlink()
    cells = "".join(f'{name}.png,"{one}"\r\n' for name in "ab")
    (folder / "metadata.csv").write_text("file_name,text\r\n" + cells, newline="")
    assert captions(folder) == [[one]] * 2


def test_carriage_returns_end_the_lines_of_a_text_that_has_no_line_feed(folder):
    (folder / "a.txt").write_bytes(b"a cat\rtwo\r")
    (folder / "b.txt").write_bytes(b"a dog\r")
    assert captions(folder) == [["a cat", "two"], ["a dog"]]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_utf_16_without_a_mark_is_no_text_of_null_bytes(folder, encoding):
    for name in "ab":
        (folder / f"{name}.txt").write_bytes("one\ntwo".encode(encoding))
    with pytest.raises(UserError, match=r"a\.txt:1: found null bytes: UTF-16 without its mark"):
        captions(folder)
    for name in "ab":
        (folder / f"{name}.txt").unlink()
    cells = "file_name,text\na.png,cat\nb.png,dog\n"
    (folder / "metadata.csv").write_bytes(cells.encode(encoding))
    with pytest.raises(UserError, match=r"metadata\.csv:1: found null bytes"):
        captions(folder)


def test_lines_of_json_may_begin_with_a_byte_order_mark(folder):
    path = folder / "data.jsonl"
    line = b'{"text": "a\xe2\x80\xa8b"}'
    path.write_bytes(BOM + line + b"\r\n\n" + BOM + b"\n" + BOM + line)
    records = open_jsonl(path)
    assert [record["text"] for record in records] == ["a\u2028b"] * 2
    assert [record["where"] for record in records] == [f"{path}:1", f"{path}:4"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_named(folder, encoding):
    mark = "\ufeff" if encoding.endswith("e") else ""
    for name in ("metadata.csv", "metadata.jsonl", "a.txt"):
        (folder / name).write_bytes(f"{mark}x".encode(encoding))
        with pytest.raises(UserError, match=rf"{name}: found text in UTF-(16|32); expected UTF-8"):
            open_folder(folder)
        (folder / name).unlink()
    (folder / "data.jsonl").write_bytes((mark + '{"text": "x"}').encode(encoding))
    with pytest.raises(UserError, match=r"data\.jsonl: found text in UTF-"):
        open_jsonl(folder / "data.jsonl")


@pytest.mark.parametrize(
    "bad", [b"\xed\xa0\x80", b"\xed\xa0\xbd\xed\xb8\x80", b"\xff", b"\xc0\x80"]
)
def test_bytes_that_are_no_character_are_told_with_file_and_line_when_opened(folder, bad):
    path = folder / "data.jsonl"
    path.write_bytes(b'{"text": "x"}\n{"text": "a ' + bad + b'"}\n')
    with pytest.raises(UserError, match=r"data\.jsonl:2: found 'utf-8' codec"):
        open_jsonl(path)
    path.write_bytes(b'[{"text": "x"},\n{"text": "a ' + bad + b'"}]')
    with pytest.raises(UserError, match=r"data\.jsonl:2: found 'utf-8' codec"):
        open_jsonl(path)
    path.unlink()
    (folder / "a.txt").write_bytes(b"x\ny\n" + bad)
    with pytest.raises(UserError, match=r"a\.txt:3: found 'utf-8' codec"):
        open_folder(folder)
    (folder / "a.txt").unlink()
    (folder / "metadata.csv").write_bytes(b"file_name,text\na.png," + bad)
    with pytest.raises(UserError, match=r"metadata\.csv:2: found 'utf-8' codec"):
        open_folder(folder)


def test_a_long_line_is_told_before_it_is_in_memory(folder, monkeypatch):
    monkeypatch.setattr(text, "MAX_LINE", 1000)
    path = folder / "data.jsonl"
    for line in ('{"text": "%s"}', '{"%s": 1}', '{"messages": [{"role": "%s", "content": "x"}]}'):
        path.write_text('{"text": "x"}\n' + line % ("x" * 1000))
        with pytest.raises(UserError, match=r"data\.jsonl:2: found a record of more than 1000 b"):
            open_jsonl(path)
        path.write_text('[{"text": "x"},\n' + line % ("x" * 3_000_000) + "]")
        with pytest.raises(UserError, match=r"data\.jsonl:2: found a record of more than 1000 b"):
            open_jsonl(path)


@pytest.mark.parametrize(
    "line",
    [
        {"x" * 10**6: 1},
        {"text": ["x" * 10**6]},
        {"image": "x" * 10**6},
        {"messages": [{"role": "x" * 10**6, "content": "x"}]},
        {"messages": [{"x" * 10**6: 1}]},
        {"messages": [{"role": "user", "content": [{"x" * 10**6: 1}]}]},
    ],
)
def test_messages_stay_short_however_long_what_they_quote(folder, line):
    path = folder / "data.jsonl"
    path.write_text(json.dumps(line))
    with pytest.raises(UserError, match=r"data\.jsonl:1: found ") as error:
        open_jsonl(path)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("form", ["text", "page"])
def test_a_paragraph_longer_than_a_row_is_told_with_file_and_line_when_opened(
    folder, tokenizer, form
):
    short, long = "a cat\n\non a mat\n\n" * 20, "a cat on a mat " * 60
    path = folder / "data.jsonl"
    lines = [short, short, long + "\n\n" + short]
    made = [{"text": t} if form == "text" else {"parts": [{"text": t}]} for t in lines]
    path.write_text("\n".join(map(json.dumps, made)))
    for kind in ("jsonl", "mixed"):
        groups = (GroupConfig("text", 1.0, (SourceConfig("t", form, kind, str(path)),)),)
        with pytest.raises(UserError, match=r"data\.jsonl:3: found one span of \d+ tokens"):
            Loader(small_config(groups=groups, overlong="split"), LAYOUT, tokenizer)
        Loader(small_config(groups=groups, overlong="drop"), LAYOUT, tokenizer)

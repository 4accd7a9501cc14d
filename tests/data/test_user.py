"""A user's own JSONL and folders: every form is read, every mistake is told with its place."""

import json

import numpy as np
import pytest

from tests.data.conftest import LAYOUT, png, small_config
from unijax.core.batch import Kind
from unijax.core.errors import UserError
from unijax.data import user
from unijax.data.config import GroupConfig, SourceConfig
from unijax.data.loader import Loader
from unijax.data.sources import open_records, open_sources
from unijax.data.user import open_folder, open_jsonl
from unijax.data.user.lines import Lines
from unijax.main.checking import look

CHAT = [
    {"role": "user", "content": "<image_placeholder>\nwhat?"},
    {"role": "assistant", "content": "a cat"},
]
GOOD = [
    {"image": "a.png", "caption": "a cat", "category": "animals", "label": "cat"},
    {"image": "a.png", "captions": ["one", "two"], "keywords": ["red"], "meta": {"url": 1}},
    {"image": "sub/b.png", "question": "what?", "answer": "a dog", "id": "mine"},
    {"image": "a.png", "questions": [{"question": "q", "answer": "a"}]},
    {"messages": CHAT, "images": ["a.png"]},
    {"prompt": "draw a cat", "image": "a.png"},
    {"text": "only words"},
    {"parts": [{"text": "see"}, {"image": "a.png"}]},
]


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.png").write_bytes(png(rng))
    (tmp_path / "sub" / "b.png").write_bytes(png(rng))
    return tmp_path


def write(folder, *lines):
    path = folder / "data.jsonl"
    path.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    )
    return path


def test_every_form_of_line_becomes_the_record_that_tasks_read(folder):
    path = write(folder, *GOOD[:4], "", *GOOD[4:])
    records = open_jsonl(path)
    assert len(records) == len(GOOD)
    caption, captions, question, questions, chat, prompt, text, page = records
    a, b = (folder / "a.png").read_bytes(), (folder / "sub" / "b.png").read_bytes()
    assert caption["image"]() == a
    assert caption["captions"] == ["a cat"]
    assert (caption["category"], caption["label"]) == ("animals", "cat")
    assert captions["captions"] == ["one", "two"]
    assert captions["keywords"] == ["red"]
    assert question["image"]() == b
    assert question["questions"] == [{"question": "what?", "answer": "a dog"}]
    assert question["id"] == "mine"
    assert questions["questions"] == [{"question": "q", "answer": "a"}]
    (asked, answered) = chat["messages"]
    (shown, text_of_it) = asked["content"]
    assert (shown(), text_of_it, asked["role"]) == (a, "\nwhat?", "user")
    assert answered == CHAT[1]
    assert prompt["captions"] == ["draw a cat"]
    assert prompt["prompt"] == "draw a cat"  # to be drawn, not a description
    assert text["text"] == "only words"
    assert page["parts"][0] == {"text": "see"}
    assert page["parts"][1]["image"]() == a
    # A blank line is no record, but it counts.
    assert [r["where"] for r in records] == [f"{path}:{n}" for n in (1, 2, 3, 4, 6, 7, 8, 9)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "data.jsonl:2: found Expecting"),
        ("[1]", "data.jsonl:2: found a list; expected an object"),
        ({"image": "a.png", "captoin": "x"}, "the key 'captoin'; expected one of id, image"),
        ({"image": "a.png", "captoin": "x"}, "Did you mean 'caption'?"),
        ({"image": "a.png", "url": "x"}, "Put other things under 'meta'."),
        (
            {"image": "c.png", "caption": "x"},
            "data.jsonl:2: found no picture 'c.png'; expected a file",
        ),
        (
            {"image": "a.png", "caption": "  "},
            "found caption: '  '; expected text that is not empty",
        ),
        ({"image": 3, "caption": "x"}, "found no picture '3'"),
        ({"image": ["a.png", "a.png"], "caption": "x"}, "found ['a.png', 'a.png'] for a picture"),
        ({"image": "a.png", "captions": []}, "found captions: []; expected a list of texts"),
        (
            {"image": "a.png", "question": "x"},
            "found no answer; expected a question with its answer",
        ),
        ({"image": "a.png", "answer": "x"}, "found no question"),
        ({"image": "a.png", "questions": [{"question": "x"}]}, 'expected a list of {"question"'),
        ({"parts": [{"txt": "x"}]}, 'expected a list of {"text": ...} and {"image": path}'),
        ({"parts": [{"image": "no.png"}]}, "found no picture 'no.png'"),
        ({"images": ["a.png"]}, "found images without messages"),
        ({"messages": "x"}, "found messages: 'x'; expected a list of {\"role\""),
        ({"messages": [{"role": "user", "contnet": "x"}]}, "Did you mean 'content'?"),
        (
            {"messages": CHAT[:1], "images": ["a.png"]},
            "found roles user; expected user and assistant",
        ),
        ({"messages": CHAT[1:]}, "found roles assistant"),
        (
            {"messages": [*CHAT, *CHAT[1:]], "images": ["a.png"]},
            "found roles user, assistant, assistant",
        ),
        (
            {"messages": [{"role": "narrator", "content": "x"}, CHAT[1]]},
            "found the role 'narrator'; expected one of user, human",
        ),
        ({"messages": CHAT}, "found 0 images and 1 markers"),
        ({"messages": CHAT, "images": ["a.png", "a.png"]}, "found 2 images and 1 markers"),
    ],
)
def test_mistakes_are_told_with_file_and_line(folder, line, message):
    path = write(folder, GOOD[0], line)
    with pytest.raises(UserError) as error:
        open_jsonl(path)
    assert str(error.value).startswith(f"{path}:2: found ")
    assert message in str(error.value)


def test_half_a_character_in_scraped_text_becomes_the_replacement_character(folder, tokenizer):
    path = write(folder, r'{"text": "a \ud800 cat \ud83d\ude00 \\ud800"}')
    (record,) = open_jsonl(path)
    assert record["text"] == "a \ufffd cat \U0001f600 \\ud800"
    tokenizer.encode(record["text"])
    with pytest.raises(UserError, match="half of a surrogate pair"):
        tokenizer.encode("a \ud800 cat")


@pytest.mark.parametrize("depth", [100, 5000, 200_000])
def test_a_line_nested_too_deep_is_told_with_its_place(folder, depth):
    for line in ('{"meta": %s1%s}', '{"text": %s1%s}'):
        path = write(folder, GOOD[0], line % ("[" * depth, "]" * depth))
        if "meta" in line and depth == 100:
            assert len(open_jsonl(path)) == 2
            continue
        with pytest.raises(UserError, match=r"data\.jsonl:2: found "):
            open_jsonl(path)


def test_a_picture_path_that_is_too_long_is_told_with_its_line(folder):
    for name in ("x" * 5000, "a\0.png"):
        path = write(folder, GOOD[0], {"image": name, "caption": "x"})
        with pytest.raises(UserError, match=r"data\.jsonl:2: found no picture '"):
            open_jsonl(path)


def test_a_mixed_file_gives_each_task_the_lines_that_teach_it(folder):
    path = write(folder, *GOOD)

    def lines(task):
        records = open_records(SourceConfig("mine", task, "mixed", str(path)), 0, task)
        return [int(record["where"].rsplit(":", 1)[1]) for record in records]

    assert lines("describe") == [1, 2]
    assert lines("generate") == [1, 2, 6]
    assert lines("question") == [3, 4]
    assert (lines("chat"), lines("text"), lines("page")) == ([5], [7], [8])
    assert (lines("name"), lines("category"), lines("keywords")) == ([1], [1], [2])
    assert lines("category_to_image") == []


def test_a_file_is_opened_once_for_all_the_sources_that_read_it(folder, tokenizer, monkeypatch):
    path, opened = str(write(folder, *GOOD)), []
    monkeypatch.setattr(user, "Lines", lambda path, **how: opened.append(path) or Lines(path))
    tasks = ("describe", "question", "chat", "name")
    groups = (GroupConfig("und", 1.0, tuple(SourceConfig(t, t, "mixed", path) for t in tasks)),)
    sources = open_sources(small_config(groups=groups), LAYOUT, tokenizer)
    assert [sources[task].epoch_length for task in tasks] == [2, 2, 1, 1]
    assert len(opened) == 1


def test_lines_that_a_task_cannot_use_are_told_when_opened(folder):
    path = write(folder, GOOD[0], GOOD[6])
    open_jsonl(path)
    with pytest.raises(UserError) as error:
        open_jsonl(path, "describe")
    assert str(error.value) == (
        f"{path}:2: found no image and no captions (but text); expected image and captions, which "
        "the task 'describe' reads. Add it, or choose a task that fits the data."
    )


def test_files_that_cannot_be_read(folder):
    for path in (folder / "none.jsonl", folder):
        with pytest.raises(UserError, match="expected a JSONL file"):
            open_jsonl(path)
    with pytest.raises(UserError, match="found no lines"):
        open_jsonl(write(folder, ""))
    bad = folder / "bad.jsonl"
    bad.write_bytes(b'{"text": "\xff"}\n')
    with pytest.raises(UserError, match=r"bad\.jsonl:1: found 'utf-8' codec"):
        open_jsonl(bad)


def test_a_picture_that_goes_away_is_told(folder):
    record = open_jsonl(write(folder, GOOD[0]))[0]
    (folder / "a.png").unlink()
    with pytest.raises(UserError, match=r"data\.jsonl:1: found a file that cannot be read"):
        record["image"]()


def test_a_folder_with_a_text_beside_each_picture(folder):
    (folder / "a.txt").write_text("a cat\n\nanother caption\n")
    (folder / "sub" / "b.txt").write_text("a dog")
    records = open_folder(folder, "generate")
    assert [r["id"] for r in records] == ["a.png", "sub/b.png"]
    assert [r["captions"] for r in records] == [["a cat", "another caption"], ["a dog"]]
    assert records[1]["image"]() == (folder / "sub" / "b.png").read_bytes()


def test_a_folder_of_categories(folder):
    (folder / "a.png").rename(folder / "sub" / "c.png")
    (folder / "tree_frog").mkdir()
    (folder / "sub" / "b.png").rename(folder / "tree_frog" / "b.png")
    (folder / ".DS_Store").write_text("hidden files are not data")
    records = open_folder(folder, "category_to_image")
    assert [r["category"] for r in records] == ["sub", "tree frog"]
    assert all(r["captions"] == [r["label"]] == [r["category"]] for r in records)


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_folder_with_metadata(folder, form):
    rows = [
        {"file_name": "sub/b.png", "text": "a dog, red", "category": "animals"},
        {"file_name": "a.png", "text": 'a "cat"', "category": "animals"},
    ]
    if form == "jsonl":
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        text = (
            'file_name,text,category\nsub/b.png,"a dog, red",animals\na.png,"a ""cat""",animals\n'
        )
    (folder / f"metadata.{form}").write_text(text)
    records = open_folder(folder, "generate")
    assert [r["captions"] for r in records] == [["a dog, red"], ['a "cat"']]
    assert [r["category"] for r in records] == ["animals"] * 2
    assert records[0]["image"]() == (folder / "sub" / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("files", "where", "message"),
    [
        ({}, "a.png", "a picture with no caption and no category"),
        ({"a.txt": "x"}, "sub/b.png", "found no b.txt beside it"),
        ({"a.txt": "x", "sub/b.txt": " \n"}, "sub/b.txt", "found no text"),
        ({"a.txt": "x", "sub/b.txt": "x", "c.txt": "x"}, "c.txt", "a text without a picture"),
        ({"drawing.svg": "x"}, "drawing.svg", "a file of a kind that is not read (.svg)"),
        ({"captions.csv": "x"}, "captions.csv", "a table that is not read"),
        ({"sub/metadata.csv": "x"}, "sub/metadata.csv", "a table that is not read"),
        ({"metadata.csv": "file_name,text\na.png,x\n"}, "sub/b.png", "metadata.csv does not name"),
        ({"metadata.csv": "file_name,text\na.png\n"}, "metadata.csv:2", "more or fewer fields"),
        ({"metadata.csv": "name,text\na.png,x\n"}, "metadata.csv:2", "found no file_name"),
        ({"metadata.csv": "file_name,text\nc.png,x\n"}, "metadata.csv:2", "no picture 'c.png'"),
        ({"metadata.jsonl": '{"file_name": "a.png"\n'}, "metadata.jsonl:1", "found Expecting"),
        ({"metadata.jsonl": "", "metadata.csv": ""}, "metadata.csv", "captions there and in"),
    ],
)
def test_mistakes_in_a_folder_are_told_with_their_place(folder, files, where, message):
    for name, text in files.items():
        (folder / name).write_text(text)
    with pytest.raises(UserError) as error:
        open_folder(folder)
    assert str(error.value).startswith(f"{folder / where}: found ")
    assert message in str(error.value)


def test_folders_that_are_none(tmp_path):
    with pytest.raises(UserError, match="found no such folder"):
        open_folder(tmp_path / "none")
    with pytest.raises(UserError, match="found no pictures"):
        open_folder(tmp_path)


def test_own_data_goes_all_the_way_to_batches(folder, tokenizer):
    und = write(folder, GOOD[2], GOOD[3])
    chat = folder / "chat.jsonl"
    chat.write_text(json.dumps(GOOD[4]))
    gen = folder / "pictures"
    (gen / "cat").mkdir(parents=True)
    (gen / "cat" / "1.png").write_bytes((folder / "a.png").read_bytes())
    groups = (
        GroupConfig("und", 2.0, (
            SourceConfig("q", "question", "jsonl", str(und)),
            SourceConfig("c", "chat", "jsonl", str(chat)),
        )),
        GroupConfig("gen", 1.0, (SourceConfig("g", "category_to_image", "folder", str(gen)),)),
    )  # fmt: skip
    loader = Loader(small_config(groups=groups), LAYOUT, tokenizer)
    batch = next(loader)
    assert {name.split("/")[0] for name in loader.info.names.values()} == {"q", "c", "g"}
    assert (batch.kind == Kind.UND).any()
    assert (batch.kind == Kind.GEN).any()
    gen = batch.images["gen"]
    assert gen.pixels[gen.weight == 1].any()


def test_an_undecodable_picture_is_named_by_file_and_line(folder, tokenizer):
    (folder / "a.png").write_bytes(b"not a picture")
    groups = (
        GroupConfig(
            "gen", 1.0, (SourceConfig("g", "generate", "jsonl", str(write(folder, GOOD[0]))),)
        ),
    )
    loader = Loader(small_config(groups=groups), LAYOUT, tokenizer)
    with pytest.raises(UserError, match=r"data\.jsonl:1: found 13 bytes that are no known picture"):
        next(loader)


def test_where_every_record_is_broken_all_is_said(tmp_path, capsys):
    """The file was said to have no lines."""
    path = tmp_path / "t.jsonl"
    path.write_text('{"image":"a.png"}\n{"image":"b.png","captoin":"x"}\n')
    assert look([str(path)], None, 10**8) == 2
    said = capsys.readouterr().out
    assert "2 records, of which 2 cannot be used" in said
    assert "t.jsonl:1: found no picture 'a.png'" in said
    assert "Did you mean 'caption'?" in said

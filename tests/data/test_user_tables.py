"""Parquet tables and WebDataset archives: every row and sample, alone, from where it lies."""

import datetime
import io
import json
import re
import tarfile
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.conftest import LAYOUT, png, small_config
from unijax.core.errors import UserError
from unijax.data.config import GroupConfig, SourceConfig
from unijax.data.loader import Loader
from unijax.data.sources import open_records
from unijax.data.user import open_mixed

RNG = np.random.default_rng(0)
PICTURES = [png(RNG) for _ in range(4)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIJAX_DATA", str(tmp_path / "cache"))


def hf(index: int) -> dict:
    return {"bytes": PICTURES[index], "path": f"{index}.png"}


def write(path, rows, row_group_size=2, features=None):
    table = pa.Table.from_pylist(rows)
    if features:
        about = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": about})
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def test_captioned_pictures_of_a_table(tmp_path, capsys):
    rows = [{"image": hf(i % 4), "text": f"picture {i}", "width": i} for i in range(7)]
    path = write(tmp_path / "train.parquet", rows)
    records = open_mixed(path)
    for i in (3, 6, 0, 3):
        assert records[i]["captions"] == [f"picture {i}"]
        assert records[i]["image"]() == PICTURES[i % 4]
        assert records[i]["where"] == f"{path}: row {i + 1}"
    said = capsys.readouterr().err
    assert f"{path}: columns of a Parquet table; not read: width\n" in said
    assert f"{path}: 7 records; 'text' is the caption of 'image'\n" in said
    open_mixed(path)
    assert "copied" not in capsys.readouterr().err


def test_captions_of_a_table_may_be_a_list_or_stand_under_txt(tmp_path):
    (record,) = open_mixed(write(tmp_path / "a.parquet", [{"image": hf(0), "caption": ["x", "y"]}]))
    assert record["captions"] == ["x", "y"]
    rows = [{"__key__": "0001", "jpg": hf(1), "txt": "a cat", "json": {"width": 3}}]
    (record,) = open_mixed(write(tmp_path / "b.parquet", rows))
    assert (record["captions"], record["image"]()) == (["a cat"], PICTURES[1])


def test_of_two_columns_of_one_name_none_is_taken_in_silence(tmp_path):
    made = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(made, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: found two columns 'text'"):
        open_mixed(tmp_path / "a.parquet")


def test_labels_are_names_of_classes_and_numbers_are_text(tmp_path):
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    rows = [{"jpg": hf(0), "label": 1, "id": 5}, {"jpg": hf(1), "label": -1, "id": 6}]
    first, second = open_mixed(write(tmp_path / "a.parquet", rows, features=features))
    assert (first["label"], first["id"], first["image"]()) == ("dog", "5", PICTURES[0])
    assert "label" not in second
    (record,) = open_mixed(write(tmp_path / "b.parquet", [{"image": PICTURES[2], "label": 1}]))
    assert (record["label"], record["image"]()) == ("1", PICTURES[2])
    day = datetime.date(2025, 1, 2)
    rows = [{"image": {"path": "a.png", "bytes": None}, "question": "when?", "answer": day}]
    (tmp_path / "a.png").write_bytes(PICTURES[3])
    (record,) = open_mixed(write(tmp_path / "c.parquet", rows))
    assert record["questions"] == [{"question": "when?", "answer": "2025-01-02"}]
    assert record["image"]() == PICTURES[3]


def test_conversations_of_a_table(tmp_path):
    talk = [{"from": "human", "value": "<image><image>\nsame?"}, {"from": "gpt", "value": "no"}]
    rows = [{"images": [hf(0), hf(1)], "conversations": talk, "id": 3}]
    (record,) = open_mixed(write(tmp_path / "a.parquet", rows))
    first, second, words = record["messages"][0]["content"]
    assert (first(), second(), words) == (*PICTURES[:2], "\nsame?")
    cauldron = [{"images": [hf(2)], "texts": [{"user": "q", "assistant": "a", "source": "s"}]}]
    (record,) = open_mixed(write(tmp_path / "b.parquet", cauldron))
    assert record["messages"][0]["content"][0]() == PICTURES[2]
    parts = [{"type": "text", "text": "draw", "image": None}]
    drawn = [{"type": "image", "text": None, "image": hf(3)}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": drawn}]
    (record,) = open_mixed(write(tmp_path / "c.parquet", [{"messages": messages}]))
    assert record["drawings"] == 1
    assert record["messages"][1]["content"][0]() == PICTURES[3]


def test_a_folder_of_tables_is_read_in_order_and_splits_are_not_mixed(tmp_path):
    data = tmp_path / "data"
    for part in range(3):
        rows = [{"image": hf(0), "text": f"{part}.{row}"} for row in range(part + 1)]
        write(data / f"train-{part:05d}-of-00003.parquet", rows)
    (data / "README.md").write_text("x")
    records = open_mixed(data)
    captions = [record["captions"][0] for record in records]
    assert captions == ["0.0", "1.0", "1.1", "2.0", "2.1", "2.2"]
    assert records[4]["where"] == f"{data / 'train-00002-of-00003.parquet'}: row 2"
    write(data / "test-00000-of-00001.parquet", [{"text": "x"}])
    with pytest.raises(UserError, match=r"found files of several splits \(test, train\)"):
        open_mixed(data)


def test_a_table_that_changed_is_copied_anew(tmp_path):
    path = write(tmp_path / "a.parquet", [{"image": hf(0), "text": "one"}])
    assert open_mixed(path)[0]["captions"] == ["one"]
    write(path, [{"image": hf(1), "text": "another"}])
    assert open_mixed(path)[0]["captions"] == ["another"]


@pytest.mark.parametrize(
    ("rows", "place", "message"),
    [
        ([{"text": "x"}, {"text": "  "}], ": row 2", "found text: '  '"),
        ([{"image": {"bytes": None, "path": "no.png"}, "text": "x"}], ": row 1", "no picture 'no."),
        ([{"image": {"bytes": b"x", "path": ""}, "captoin": "x"}], "", "mean 'caption'?"),
        ([{"a": hf(0), "b": hf(1), "text": "x"}], "", "found pictures in the columns a, b"),
        ([{"images": [hf(0), hf(1)], "text": "x"}], ": row 1", "found images without messages"),
    ],
)
def test_mistakes_in_a_table_are_told_with_the_row(tmp_path, rows, place, message):
    path = write(tmp_path / "a.parquet", rows)
    with pytest.raises(UserError) as error:
        open_mixed(path)
    assert str(error.value).startswith(f"{path}{place}: found ")
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["rows.jsonl", "counts.json", "pictures", "sums.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "changed"])
def test_a_damaged_copy_of_a_table_is_made_anew(tmp_path, capsys, name, damage):
    """A copy without its counts was a traceback at every start, one with other rows was read."""
    if (name, damage) == ("pictures", "changed"):
        return  # each picture says so itself
    path = write(tmp_path / "a.parquet", [{"image": hf(i % 4), "text": f"{i}"} for i in range(5)])
    open_mixed(path)
    (copy,) = (tmp_path / "cache").iterdir()
    content = (copy / name).read_bytes()
    other = re.sub(rb"\d", lambda digit: b"7" if digit[0] != b"7" else b"8", content, count=1)
    changed = {"cut": content[:-9], "changed": other}
    (copy / name).unlink()
    if damage != "gone":
        (copy / name).write_bytes(changed[damage])
    records = open_mixed(path)
    assert [records[i]["captions"] for i in range(5)] == [[f"{i}"] for i in range(5)]
    assert records[3]["image"]() == PICTURES[3]
    assert "it is made anew" in capsys.readouterr().err
    assert list((tmp_path / "cache").iterdir()) == [copy]


def test_a_damaged_table_is_told_and_leaves_nothing(tmp_path):
    path = write(tmp_path / "a.parquet", [{"image": hf(0), "text": "x"}] * 20)
    whole = path.read_bytes()
    path.write_bytes(whole[:-30] + bytes(30))
    with pytest.raises(UserError, match=r"a\.parquet: found .*; expected a Parquet table"):
        open_mixed(path)
    text = pa.array(["x", "y"]).view(pa.binary())
    bad = pa.Array.from_buffers(pa.string(), 2, pa.array([b"x", b"\xff"]).buffers())
    assert len(text) == len(bad)
    pq.write_table(pa.table({"text": bad}), path)
    with pytest.raises(UserError, match=r"a\.parquet: row 2: found 'utf-8' codec"):
        open_mixed(path)
    assert not list((tmp_path / "cache").iterdir())


def test_a_table_is_never_in_memory_as_a_whole(tmp_path):
    """One row group of 120 MB is copied and read in a fraction of that."""
    path, size, count = tmp_path / "a.parquet", 300_000, 400
    blob = RNG.integers(0, 256, size, np.uint8).tobytes()
    rows = {"image": [blob] * count, "text": [f"{i}" for i in range(count)]}
    how = {"use_dictionary": False, "compression": "none", "write_batch_size": 8}
    pq.write_table(pa.table(rows), path, **how)
    usual, watched = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(watched)
    tracemalloc.start()
    try:
        assert open_mixed(path)[350]["image"]() == blob
        peak = tracemalloc.get_traced_memory()[1] + watched.max_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(usual)
    assert size < peak < 0.4 * size * count


def pack(path, files):
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            content = content if isinstance(content, bytes) else content.encode()
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


TALK = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a cat"}]


def test_samples_of_an_archive(tmp_path, capsys):
    path = pack(
        tmp_path / "00000.tar",
        {
            "0001.jpg": PICTURES[0], "0001.txt": b"\xef\xbb\xbfa cat\non a mat\n",
            "0001.json": json.dumps({"caption": "a cat", "url": "u", "status": "success"}),
            "a/0002.PNG": PICTURES[1], "a/0002.cls": "3", "a/0002.npy": b"\x93",
            "0003.json": json.dumps({"id": 3, "image": "x/0003.jpg", "conversations": TALK}),
            "0003.jpg": PICTURES[2],
            "0004.txt": "words alone",
            "0005.json": json.dumps({"question": "what?", "answer": 5}), "0005.webp": PICTURES[3],
            "._0005.webp": b"x", "__meta__.json": b"x",
        },
    )  # fmt: skip
    caption, label, talk, words, question = records = open_mixed(path)
    assert (caption["captions"], caption["image"]()) == (["a cat\non a mat"], PICTURES[0])
    assert (label["label"], label["image"](), label["id"]) == ("3", PICTURES[1], "a/0002")
    assert talk["messages"][0]["content"][0]() == PICTURES[2]
    assert words["text"] == "words alone"
    assert question["questions"] == [{"question": "what?", "answer": "5"}]
    assert records[1]["where"] == f"{path}: a/0002"
    said = capsys.readouterr().err
    assert said.startswith(f"{path}: 5 records; 5 from WebDataset; ")
    assert all(word in said for word in ("1 from 'conversations'", "'url'", "'status'", "*.npy"))


def test_pictures_of_a_conversation_in_an_archive_are_in_the_order_of_its_words(tmp_path):
    talk = [
        {"role": "user", "content": "<image>\nbluer"},
        {"role": "assistant", "content": "<image>"},
    ]
    sample = {"messages": talk, "images": ["s.before.png", "s.after.png"]}
    files = {"s.after.png": PICTURES[1], "s.before.png": PICTURES[0], "s.json": json.dumps(sample)}
    (record,) = open_mixed(pack(tmp_path / "a.tar", files))
    before, after = (message["content"][0]() for message in record["messages"])
    assert (before, after, record["drawings"]) == (*PICTURES[:2], 1)


def test_pictures_that_a_sample_names_otherwise_are_not_put_in_the_order_of_the_archive(tmp_path):
    """The edited one, whose name comes first, was shown and the original drawn."""
    talk = [
        {"role": "user", "content": "<image>\nbluer"},
        {"role": "assistant", "content": "<image>"},
    ]
    sample = {"messages": talk, "images": ["src/17.png", "dst/17.png"]}
    files = {"0.edited.png": PICTURES[1], "0.json": json.dumps(sample)}
    files["0.original.png"] = PICTURES[0]
    path = pack(tmp_path / "a.tar", files)
    with pytest.raises(UserError, match=r"a\.tar: 0: found the pictures .*and members \*\.edited"):
        open_mixed(path)


def test_a_folder_of_archives_feeds_a_loader(tmp_path, tokenizer):
    for shard in range(2):
        files = {}
        for i in range(3):
            files |= {f"{shard}{i}.png": PICTURES[i], f"{shard}{i}.txt": f"picture {shard} {i}"}
        pack(tmp_path / f"{shard}.tar", files)
    source = SourceConfig("a", "generate", "webdataset", str(tmp_path))
    assert [r["id"] for r in open_records(source, 0)] == ["00", "01", "02", "10", "11", "12"]
    loader = Loader(small_config(groups=(GroupConfig("gen", 1.0, (source,)),)), LAYOUT, tokenizer)
    batch = next(loader)
    assert batch.images["gen"].pixels[batch.images["gen"].weight == 1].any()


@pytest.mark.parametrize(
    ("files", "place", "message"),
    [
        ({"a.jpg": b"x", "a.JPG": b"y"}, ": a.JPG", "found the file twice"),
        ({"a.jpg": b"x", "a.json": "{"}, ": a.json", "found Expecting"),
        ({"a.jpg": b"x", "a.json": "[1]"}, ": a.json", "found a list; expected an object"),
        ({"a.jpg": b"x", "a.txt": b"\xff"}, ": a.txt", "found 'utf-8' codec"),
        ({"a.1.jpg": b"x", "a.2.jpg": b"y", "a.txt": "x"}, ": a", "images without messages"),
        ({"a": b"x"}, "", "found no samples"),
    ],
)
def test_mistakes_in_an_archive_are_told_with_the_sample(tmp_path, files, place, message):
    path = pack(tmp_path / "a.tar", files)
    with pytest.raises(UserError) as error:
        open_mixed(path)
    assert str(error.value).startswith(f"{path}{place}: found ")
    assert message in str(error.value)


def test_damaged_archives_are_told(tmp_path):
    path = pack(tmp_path / "a.tar", {"a.jpg": bytes(5000), "a.txt": "x"})
    whole = path.read_bytes()
    for content, message in (
        (whole[:3000], r"a\.tar: a\.jpg: found an archive that is cut short"),
        # Python's reader takes what follows for the end, and the second file were lost.
        (whole[: 512 + 5120 + 100], r"a\.tar: found an archive that is cut short at byte 5,632"),
        (whole[: 512 + 5120] + b"x" * 512 + whole[6144:], r"a\.tar: found an archive that is dam"),
        (b"\x1f\x8b" + whole, r"a\.tar: found a compressed file"),
        (b"x" * 5000, r"a\.tar: found .*; expected a tar archive"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            open_mixed(path)
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("a.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(UserError, match=r"a\.jpg: found a link or a device"):
        open_mixed(path)


def test_a_sample_in_two_places_of_an_archive_is_told(tmp_path):
    """It came as a picture without a caption, and a text."""
    files = {"0.png": PICTURES[0], "1.png": PICTURES[1], "0.txt": "a cat", "1.txt": "a dog"}
    path = pack(tmp_path / "a.tar", files)
    with pytest.raises(UserError, match=r"a\.tar: 0: found files of the sample in two places"):
        open_mixed(path)


def test_a_text_beside_a_null_picture_is_said(tmp_path, capsys):
    path = tmp_path / "a.parquet"
    rows = {"image": [PICTURES[0], None], "text": ["a cat", "a dog"]}
    pq.write_table(pa.table(rows), path)
    caption, words = open_mixed(path)
    assert (caption["captions"], words["text"]) == (["a cat"], "a dog")
    said = capsys.readouterr().err
    assert "'text' beside an 'image' of null is a text without a picture (1)" in said


def test_edits_of_a_table(tmp_path):
    path = tmp_path / "a.parquet"
    held = [{"bytes": picture, "path": None} for picture in PICTURES[:3]]
    rows = {
        "original_image": held[:1], "edit_prompt": ["bluer"], "edited_image": held[1:2],
        "mask": held[2:3],
    }  # fmt: skip
    pq.write_table(pa.table(rows), path)
    (record,) = open_mixed(path)
    asked, drawn = (message["content"] for message in record["messages"])
    assert (asked[0](), asked[1], drawn[0]()) == (PICTURES[0], "\nbluer", PICTURES[1])


@pytest.mark.parametrize("kind", ["large_list", "fixed"])
def test_lists_of_pictures_of_every_kind_of_list(tmp_path, kind):
    held = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    listed = pa.large_list(held) if kind == "large_list" else pa.list_(held, 1)
    rows = pa.array([[{"bytes": PICTURES[0], "path": None}]], listed)
    talk = pa.array(
        [TALK], pa.list_(pa.map_(pa.string(), pa.string())) if kind == "fixed" else None
    )
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"pics": rows, "conversations": talk}), path)
    (record,) = open_mixed(path)
    assert [m["role"] for m in record["messages"]] == ["user", "assistant"]
    assert record["messages"][0]["content"][0]() == PICTURES[0]


def test_a_picture_that_cannot_be_read_does_not_leave_its_caption_behind(tmp_path):
    path = pack(tmp_path / "a.tar", {"0.heic": b"x", "0.txt": "a cat"})
    with pytest.raises(UserError, match=r"a\.tar: 0: found a picture of a kind that .*heic"):
        open_mixed(path)


def test_members_that_an_edit_or_parts_name_are_found_in_the_archive(tmp_path):
    edit = {"edit": "x", "input_image": "0.a.png", "output_image": "0.b.png"}
    parts = {"parts": [{"text": "x"}, {"image": "1.a.png"}]}
    asked = [{"type": "text", "text": "x"}, {"type": "image", "image": "2.a.png"}]
    talk = [{"role": "user", "content": asked}, {"role": "assistant", "content": "y"}]
    files = {}
    for key, line in enumerate((edit, parts, {"messages": talk})):
        files |= {f"{key}.b.png": PICTURES[1], f"{key}.a.png": PICTURES[0]}
        files[f"{key}.json"] = json.dumps(line)
    changed, page, seen = open_mixed(pack(tmp_path / "a.tar", files))
    assert changed["messages"][0]["content"][0]() == PICTURES[0]
    assert changed["messages"][1]["content"][0]() == PICTURES[1]
    assert page["parts"][1]["image"]() == PICTURES[0]
    assert seen["messages"][0]["content"][1]() == PICTURES[0]


def test_a_key_by_the_name_of_our_own_mark_is_no_mark(tmp_path):
    """It read other bytes than its row's, or ended in a traceback."""
    for mark in ("x", ["0", "5"], ["-1", "5"], None):
        image = {"path": "a.png", "$at": mark}
        path = write(tmp_path / "a.parquet", [{"image": image, "text": "one"}])
        with pytest.raises(UserError, match=r"row 1: found no picture 'a\.png'"):
            open_mixed(path)


def test_metadata_nested_without_end_are_no_labels(tmp_path):
    table = pa.Table.from_pylist([{"image": hf(0), "text": "one"}])
    pq.write_table(
        table.replace_schema_metadata({"huggingface": "[" * 100_000}), tmp_path / "a.parquet"
    )
    assert open_mixed(tmp_path / "a.parquet")[0]["captions"] == ["one"]


def test_an_archive_of_names_with_dots_opens_in_linear_time(tmp_path):
    """Every end of a name was looked for among all: counted here, not timed."""
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for i in range(300):
            member = tarfile.TarInfo(f"x{i}.{i}.png")
            member.size = len(PICTURES[0])
            archive.addfile(member, io.BytesIO(PICTURES[0]))
            text = tarfile.TarInfo(f"x{i}.txt")
            text.size = 1
            archive.addfile(text, io.BytesIO(b"a"))
    assert len(open_mixed(tmp_path / "a.tar")) == 300

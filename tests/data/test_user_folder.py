"""Folders as people have them: what lies beside pictures, ends of names, tables of spreadsheets."""

import json
import os
import unicodedata

import numpy as np
import pytest

from tests.data.conftest import png
from unijax.core.errors import UserError
from unijax.data.user import folder as folders
from unijax.data.user import open_folder, open_mixed

PNG = png(np.random.default_rng(0))


def make(root, **files):
    """Files by name; `__` in a name is a dot, `_` a slash."""
    for name, content in files.items():
        path = root / name.replace("__", ".").replace("_", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


@pytest.mark.parametrize(
    "end", ["png", "PNG", "jpg", "JPEG", "jfif", "jpe", "avif", "webp", "gif", "bmp", "tif", "ppm"]
)
def test_pictures_are_known_by_every_usual_end(tmp_path, end):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / f"a.{end}").write_bytes(PNG)
    (record,) = open_folder(tmp_path)
    assert record["category"] == "cat"


def test_files_of_systems_and_programs_are_left_alone(tmp_path, capsys):
    make(tmp_path, cat_a__png=PNG, cat_b__png=PNG)
    others = ("Thumbs.db", "desktop.ini", ".DS_Store", "a.json", "README.md", "LICENSE", "a.xml")
    for name in others:
        (tmp_path / "cat" / name).write_bytes(b"\xff\0")
    (tmp_path / "cat" / ".cache").mkdir()
    (tmp_path / "cat" / ".cache" / "x.png").write_bytes(b"")
    assert [record["id"] for record in open_folder(tmp_path)] == ["cat/a.png", "cat/b.png"]
    said = capsys.readouterr().err
    assert said.startswith(f"{tmp_path}: 2 records; not read: ")
    assert all(name in said for name in ("files *.json", "files *.md", "license", "files *.xml"))
    assert not any(name in said.lower() for name in ("thumbs", "desktop", "ds_store"))


def test_captions_may_end_in_capitals_and_other_texts_are_none(tmp_path):
    make(tmp_path, a__png=PNG, a__TXT="a cat")
    assert open_folder(tmp_path)[0]["captions"] == ["a cat"]
    make(tmp_path, a__txt="a dog")
    with pytest.raises(UserError, match=r"a\.txt: found captions there and in a\.TXT"):
        open_folder(tmp_path)
    for name in ("a.txt", "a.TXT"):
        (tmp_path / name).unlink()
    (tmp_path / "a.png").unlink()
    make(tmp_path, cat_a__png=PNG, classes__txt="cat\ndog\n")
    assert open_folder(tmp_path)[0]["category"] == "cat"


def test_captions_that_end_in_caption_are_not_left_for_the_name_of_the_folder(tmp_path):
    make(tmp_path, cat_a__png=PNG)
    (tmp_path / "cat" / "a.caption").write_text("a red cat\n")
    assert open_folder(tmp_path)[0]["captions"] == ["a red cat"]
    (tmp_path / "cat" / "a.txt").write_text("another\n")
    with pytest.raises(UserError, match=r"a\.txt: found captions there and in cat/a\.caption"):
        open_folder(tmp_path)


LONG = "x" * 200_000
TABLES = {
    "mark": "\ufefffile_name,text\na.png,a cat\n",
    "semicolons": 'file_name;text\na.png;"a cat"\n',
    "semicolons and a mark": "\ufefffile_name;text\r\na.png;a cat\r\n",
    "a mark that is named": "\ufeffsep=;\r\nfile_name;text\r\na.png;a cat\r\n",
    "tabs": "file_name\ttext\na.png\ta cat\n",
    "quoted names": '"file_name","text"\n"a.png","a cat"\n',
    "blank rows": "file_name,text\n,\n\na.png,a cat\n,,\n",
    "columns of others": "file_name,width,text\na.png,100,a cat\n",
    "a path with a dot": "file_name,text\n./a.png,a cat\n",
    "a path of Windows": "file_name,text\nsub\\..\\a.png,a cat\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_as_spreadsheets_write_them(tmp_path, name):
    make(tmp_path, a__png=PNG, metadata__csv=TABLES[name])
    (tmp_path / "sub").mkdir()
    (record,) = open_folder(tmp_path)
    assert record["captions"] == ["a cat"]


def test_a_field_of_a_table_may_be_long(tmp_path):
    import csv

    limit = csv.field_size_limit()
    make(tmp_path, a__png=PNG, metadata__csv=f'file_name,text\na.png,"{LONG}"\n')
    assert open_folder(tmp_path)[0]["captions"] == [LONG]
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("table", "line", "message"),
    [
        ('file_name,text\n"a.png","a\ncat"\nb.png\n', 4, "more or fewer fields"),
        ('file_name,text\na.png,"a cat\nb.png,x\n', 2, "unexpected end of data"),
        ("file_name,text,text\na.png,x,y\n", 1, "two columns 'text'"),
        ("file_name,captoin\na.png,x\n", 2, "Did you mean 'caption'?"),
        ("file;text\na.png;x\n", 2, "found no file_name"),
        ("sep=;\nfile_name;text\na.png;x\na.png\n", 4, "more or fewer fields"),
    ],
)
def test_mistakes_in_a_table_are_told_with_the_line_that_the_row_begins_in(
    tmp_path, table, line, message
):
    make(tmp_path, a__png=PNG, metadata__csv=table)
    with pytest.raises(UserError, match=rf"metadata\.csv:{line}: ") as error:
        open_folder(tmp_path)
    assert message in str(error.value)


def test_nothing_that_may_be_a_picture_or_a_caption_is_left_out_in_silence(tmp_path):
    make(tmp_path, cat_a__png=PNG)
    for name in ("b.heic", "b.svg", "b.mp4", "captions.csv", "captions.jsonl", "sub/metadata.csv"):
        path = make(tmp_path, sub_x__png=PNG) / name
        path.write_text("x")
        with pytest.raises(UserError) as error:
            open_folder(tmp_path)
        assert str(error.value).startswith(f"{path}: found ")
        path.unlink()
    os.symlink(tmp_path / "nothing.png", tmp_path / "cat" / "link.png")
    with pytest.raises(UserError, match=r"link\.png: found no picture"):
        open_folder(tmp_path)


@pytest.mark.parametrize(("said", "kept"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_picture_whose_name_spells_its_accents_otherwise_was_not_there(tmp_path, said, kept):
    # Files copied from macOS have them apart; tables typed elsewhere have them together.
    (tmp_path / unicodedata.normalize(kept, "café.png")).write_bytes(PNG)
    name = unicodedata.normalize(said, "café.png")
    (tmp_path / "metadata.csv").write_text(f"file_name,text\n{name},a cup\n", encoding="utf-8")
    (record,) = open_folder(tmp_path)
    assert (record["captions"], record["image"]()) == (["a cup"], PNG)


def test_links_are_followed_and_circles_are_not(tmp_path):
    make(tmp_path, real_a__png=PNG)
    (tmp_path / "data").mkdir()
    os.symlink(tmp_path / "real", tmp_path / "data" / "cat")
    os.symlink(tmp_path / "data", tmp_path / "real" / "back")
    assert [record["id"] for record in open_folder(tmp_path / "data")] == ["cat/a.png"]


def test_names_that_are_no_utf8_are_told_where_they_would_be_learned(tmp_path):
    strange = os.fsencode(tmp_path) + b"/c\xff"
    os.mkdir(strange)
    with open(strange + b"/a\xfe.png", "wb") as file:
        file.write(PNG)
    with pytest.raises(UserError, match="a folder whose name is not UTF-8"):
        open_folder(tmp_path)
    with open(strange + b"/a\xfe.txt", "wb") as file:
        file.write(b"a cat")
    (record,) = open_folder(tmp_path)
    assert record["image"]() == PNG
    record["id"].encode()


def test_the_work_of_opening_grows_with_the_pictures_not_with_their_square(tmp_path, monkeypatch):
    """Counted in looks at names, which were as many as pictures for every picture."""
    looked = 0

    class Name(str):
        def __hash__(self):
            nonlocal looked
            looked += 1
            return str.__hash__(self)

        def __eq__(self, other):
            nonlocal looked
            looked += 1
            return str.__eq__(self, other)

    def names(count):
        return [Name(f"cat/{i}.png") for i in range(count)]

    make(tmp_path, **{f"cat_{i}__png": PNG for i in range(400)})
    counts = []
    for count in (200, 400):
        looked = 0
        monkeypatch.setattr(folders, "files_in", lambda folder, count=count: names(count))
        assert len(open_folder(tmp_path)) == count
        counts.append(looked)
    assert counts[1] < 2.5 * counts[0] + 100


def test_an_array_beside_its_pictures_is_named_where_the_folder_is_given(tmp_path):
    make(tmp_path, a__png=PNG, llava__json=json.dumps([{"image": "a.png", "caption": "x"}]))
    with pytest.raises(UserError, match="where a file of JSON names the pictures, give that file"):
        open_mixed(tmp_path)
    assert len(open_mixed(tmp_path / "llava.json")) == 1


@pytest.mark.parametrize("beside", ["captions_1__txt", "captions__json", "labels_1__txt", None])
def test_a_folder_called_images_is_no_category(tmp_path, beside):
    """All pictures were taught as "images", and the captions elsewhere were left out."""
    make(tmp_path, images_1__png=PNG, images_2__png=PNG, **({beside: "a red"} if beside else {}))
    with pytest.raises(UserError, match="a picture with no caption and no category"):
        open_folder(tmp_path)


def test_what_is_said_of_all_pictures_is_no_caption_without_a_picture(tmp_path):
    make(tmp_path, a__png=PNG, a__txt="a red fox", LICENSE__txt="free", README__txt="mine")
    (record,) = open_folder(tmp_path)
    assert record["captions"] == ["a red fox"]


def test_metadata_may_name_pictures_by_what_they_are(tmp_path):
    names = {"input_image": "input_image_file_name", "edited_image": "edited_image_file_name"}
    line = json.dumps({names["input_image"]: "a.png", "edit": "x", names["edited_image"]: "b.png"})
    make(tmp_path, a__png=PNG, b__png=PNG, metadata__jsonl=line)
    (record,) = open_folder(tmp_path)
    assert record["drawings"] == 1
    talk = [{"role": "user", "content": "<image><image>which?"}]
    talk += [{"role": "assistant", "content": "the first"}]
    line = json.dumps({"file_names": ["a.png", "b.png"], "messages": talk})
    (tmp_path / "metadata.jsonl").write_text(line)
    (record,) = open_folder(tmp_path)
    assert sum(map(callable, record["messages"][0]["content"])) == 2
    (tmp_path / "metadata.jsonl").unlink()
    table = "input_image_file_name;edit_prompt;edited_image_file_name\na.png;bluer, please;b.png\n"
    (tmp_path / "metadata.csv").write_text(table)
    assert open_folder(tmp_path)[0]["messages"][0]["content"][1] == "\nbluer, please"


def test_rows_of_metadata_for_what_is_held_out_are_not_trained_on(tmp_path, capsys):
    table = "file_name,text\ntrain/a.png,x\ntest/b.png,y\n"
    make(tmp_path, train_a__png=PNG, test_b__png=PNG, metadata__csv=table)
    assert [record["captions"] for record in open_folder(tmp_path)] == [["x"]]
    assert "pictures in test/ are held out: give it as --held-out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("trained", "held"),
    [
        ("Training/cat", "Testing/cat"),
        ("train2017/cat", "val2017/cat"),
        ("d/train/cat", "d/test/cat"),
    ],
)
def test_what_is_held_out_is_known_by_every_usual_name(tmp_path, trained, held):
    for inside in (trained, held):
        (tmp_path / inside).mkdir(parents=True)
        (tmp_path / inside / "a.png").write_bytes(PNG)
    assert [record["id"] for record in open_folder(tmp_path)] == [f"{trained}/a.png"]


def test_a_category_deeper_in_may_be_called_test(tmp_path):
    for inside in ("shapes/test", "shapes/cat"):
        (tmp_path / inside).mkdir(parents=True)
        (tmp_path / inside / "a.png").write_bytes(PNG)
    assert [record["category"] for record in open_folder(tmp_path)] == ["cat", "test"]


def test_boxes_beside_pictures_are_no_captions(tmp_path):
    make(tmp_path, a__png=PNG, a__txt="0 0.5 0.5 0.1 0.1\n3 0.25 0.5 0.1 0.1\n")
    with pytest.raises(UserError, match=r"a\.txt: found boxes of objects; expected captions"):
        open_folder(tmp_path)


@pytest.mark.parametrize(("name", "fix"), [("a.jsonl", "Name the file"), ("a.arrow", "to_parquet")])
def test_a_folder_of_other_files_is_told_what_to_do(tmp_path, name, fix):
    (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match=fix):
        open_folder(tmp_path)

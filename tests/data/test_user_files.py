"""Files of JSON that are an array or one object, tables of characters, and files of other kinds."""

import json

import pytest

from unijax.core.errors import UserError
from unijax.data.user import open_mixed


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_read_where_it_lies(folder, indent):
    lines = [{"text": f"text {i} ✓", "meta": ["]", {"}": i}]} for i in range(50)]
    path = folder / "data.json"
    path.write_bytes(b"\xef\xbb\xbf \n" + json.dumps(lines, indent=indent).encode())
    records = open_mixed(path)
    assert [record["text"] for record in records] == [line["text"] for line in lines]
    number = 2 if indent is None else 2 + 1 + 3 * 9
    assert records[3]["where"] == f"{path}:{number} (record 4)"


def test_elements_longer_than_the_window_are_whole(folder, monkeypatch):
    from unijax.data.user import lines

    monkeypatch.setattr(lines, "_WINDOW", 16)
    texts = ["x" * n for n in (1, 5, 40, 300, 3)]
    path = folder / "data.json"
    path.write_text(json.dumps([{"text": text} for text in texts], ensure_ascii=False, indent=1))
    assert [record["text"] for record in open_mixed(path)] == texts


@pytest.mark.parametrize(
    ("content", "where", "message"),
    [
        ('[{"text": "x"},\n{"text": "y"', 2, "Expecting ',' delimiter"),
        ('[{"text": "x"}\n{"text": "y"}]', 2, "found '{'; expected a comma or ]"),
        ('[{"text": "x"},\n]', 2, "found a comma before ]"),
        ('[{"text": "x"}', 1, "the end of the file within the array"),
        ('[{"text": "x"}]\n[1]', 2, "found more text; expected the end of the file behind ]"),
        ('[{"text": "x"},\n 3]', 2, "found a text; expected an object"),
        ('[{"text": "x"},\n {"txt": "y"}]', 2, "Did you mean 'text'?"),
        ('[{"text": "x"},\n {"text": "\udce1"}]', 2, "'utf-8' codec can't decode"),
        ("[" * 100_000, 1, "nested too deep"),
        ("[]", None, "found no lines"),
    ],
)
def test_mistakes_in_an_array_are_told_with_their_line(folder, content, where, message):
    path = folder / "data.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UserError) as error:
        open_mixed(path)
    place = f"{path}: " if where is None else f"{path}:{where}"
    assert str(error.value).startswith(place)
    assert message in str(error.value)


def test_the_captions_of_coco(folder, capsys):
    (folder / "annotations").mkdir()
    (folder / "val2017").mkdir()
    for name in "abc":
        (folder / f"{name}.png").rename(folder / "val2017" / f"{name}.png")
    whole = {
        "info": {"year": 2017}, "licenses": [{"id": 1}],
        "images": [{"id": i, "file_name": f"{name}.png"} for i, name in enumerate("abc")],
        "annotations": [
            {"id": 7, "image_id": 1, "caption": "a cat"}, {"id": 8, "image_id": 0, "caption": "x"},
            {"id": 9, "image_id": 1, "caption": "a red cat"},
        ],
    }  # fmt: skip
    path = folder / "annotations" / "captions_val2017.json"
    path.write_text(json.dumps(whole, indent=1))
    first, second = open_mixed(path)
    assert (first["captions"], second["captions"]) == (["x"], ["a cat", "a red cat"])
    assert second["image"]() == (folder / "val2017" / "b.png").read_bytes()
    assert second["where"] == f"{path}: images[1]"
    assert "2 records; 2 from COCO" in capsys.readouterr().err


def test_categories_of_coco_are_keywords_and_lost_pictures_are_told(folder):
    whole = {
        "images": [{"id": 3, "file_name": "a.png"}],
        "annotations": [
            {"image_id": 3, "category_id": 2, "bbox": [0, 0, 1, 1]},
            {"image_id": 3, "category_id": 1}, {"image_id": 3, "category_id": 2},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "hat"}],
    }  # fmt: skip
    path = folder / "instances.json"
    path.write_text(json.dumps(whole))
    assert open_mixed(path)[0]["keywords"] == ["hat", "cat"]
    whole["annotations"][0]["image_id"] = 4
    path.write_text(json.dumps(whole))
    with pytest.raises(UserError, match=r"instances\.json: annotations: found image_id 4"):
        open_mixed(path)


def test_one_object_with_a_list_of_records_is_that_list(folder):
    path = folder / "data.json"
    items = [{"image": "a.png", "caption": "x"}, {"image": "b.png", "captoin": "y"}]
    path.write_text(json.dumps({"version": 1, "data": items[:1]}))
    assert open_mixed(path)[0]["captions"] == ["x"]
    path.write_text(json.dumps({"version": 1, "data": items}, indent=2))
    with pytest.raises(UserError, match=r"data\.json: data\[1\]: .*Did you mean 'caption'"):
        open_mixed(path)
    path.write_text(json.dumps(items[0]))  # a line of JSON Lines
    assert open_mixed(path)[0]["captions"] == ["x"]
    path.write_text("\n".join(json.dumps(items[0] | {"id": i}) for i in range(3)))
    assert len(open_mixed(path)) == 3


def test_halves_of_surrogates_in_one_object_become_the_mark_of_no_character(folder):
    path = folder / "data.json"
    path.write_text('{"data": [\n{"image": "a.png", "caption": "a \\ud83d cat"}]}')
    assert open_mixed(path)[0]["captions"] == ["a \ufffd cat"]


def test_mistakes_in_one_object_are_told_with_their_line(folder):
    path = folder / "data.json"
    path.write_text('{\n "data": [\n  {"image": "a.png",\n   caption: "x"}]}')
    with pytest.raises(UserError, match=r"data\.json:4: found Expecting"):
        open_mixed(path)
    path.write_text(json.dumps({"train": [{"text": "a"}], "val": [{"text": "b"}]}, indent=1))
    with pytest.raises(UserError, match=r"several lists \('train', 'val'\)"):
        open_mixed(path)
    path.write_text(json.dumps({"image": "a.png", "caption": "x"}, indent=1))
    assert open_mixed(path)[0]["captions"] == ["x"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [{"id": 1, "file_name": None}]}, "images[0]: found {'file_name': None"),
        ({"images": [{"id": 1, "file_name": "a.png"}] * 2}, "images[1]: found the id 1 again"),
        ({"images": [{"id": 1, "file_name": "x" * 5000}]}, "found no picture 'xxx"),
        ({"annotations": [3]}, "annotations[0]: found '3'"),
        ({"annotations": []}, "annotations without 'caption'"),
    ],
)
def test_mistakes_in_coco_are_told(folder, changes, message):
    whole = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"image_id": 1, "caption": "x"}],
    }
    path = folder / "data.json"
    path.write_text(json.dumps(whole | changes))
    with pytest.raises(UserError) as error:
        open_mixed(path)
    assert message in str(error.value)


def test_captions_by_picture_and_karpathys_splits(folder):
    path = folder / "data.json"
    path.write_text(json.dumps({"a.png": "x", "b.png": ["y", "z"]}))
    assert [r["captions"] for r in open_mixed(path)] == [["x"], ["y", "z"]]
    images = [
        {"filename": f"{name}.png", "split": split, "sentences": [{"raw": f"of {name}"}]}
        for name, split in zip("abc", ("train", "test", "restval"))
    ]
    path.write_text(json.dumps({"images": images, "dataset": "coco"}))
    assert [r["captions"] for r in open_mixed(path)] == [["of a"], ["of c"]]


@pytest.mark.parametrize(("mark", "end"), [(",", "csv"), ("\t", "tsv"), (";", "csv")])
@pytest.mark.parametrize("name", ["image", "filepath", "file_name"])
def test_a_table_of_characters_names_its_pictures(folder, name, mark, end):
    path = folder / f"data.{end}"
    said = "title" if name == "filepath" else "caption"
    path.write_text(f"{name}{mark}{said}{mark}width\na.png{mark}a cat{mark}3\n")
    (record,) = open_mixed(path)
    assert record["captions"] == ["a cat"]
    assert record["image"]() == (folder / "a.png").read_bytes()
    path.write_text(f"{name}{mark}{said}\nd.png{mark}a cat\n")
    with pytest.raises(UserError, match=rf"data\.{end}:2: found no picture 'd\.png'"):
        open_mixed(path)


@pytest.mark.parametrize(
    ("name", "fix"), [("a.txt", 'a line of JSON, {"text"'), ("a.arrow", "to_parquet")]
)
def test_files_of_other_kinds_are_told_what_to_do(folder, name, fix):
    (folder / name).write_bytes(b"\xff\xff\xff\xffx")
    with pytest.raises(UserError, match=fix):
        open_mixed(folder / name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sentences": None}, "expected 'filename' and a list of 'sentences'"),
        ({"sentences": True}, "expected 'filename' and a list of 'sentences'"),
        ({"filepath": ["a"]}, "expected 'filename' and a list of 'sentences'"),
        ({"filename": {"a": 1}}, "expected 'filename' and a list of 'sentences'"),
    ],
)
def test_karpathys_mistakes_are_told_and_are_no_traceback(folder, changes, message):
    item = {"filename": "a.png", "sentences": [{"raw": "x"}]} | changes
    path = folder / "data.json"
    path.write_text(json.dumps({"images": [item]}))
    with pytest.raises(UserError) as error:
        open_mixed(path)
    assert f"{path}: images[0]" in str(error.value)
    assert message in str(error.value)


def test_categories_of_coco_that_are_no_list_name_nothing(folder):
    whole = {
        "images": [{"id": 1, "file_name": "a.png"}], "categories": True,
        "annotations": [{"image_id": 1, "caption": "x"}],
    }  # fmt: skip
    path = folder / "data.json"
    path.write_text(json.dumps(whole))
    assert [r["captions"] for r in open_mixed(path)] == [["x"]]

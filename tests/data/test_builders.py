"""Prepared datasets: what was shipped comes back, whole or not at all, with clear messages."""

import itertools
import pickle
import shutil
import sys

import pytest

from unijax.core.errors import UserError
from unijax.core.paths import assets_dir, cache_dir
from unijax.data.builders import open_dataset, prepare
from unijax.data.builders.shards import read_manifest, read_shards, write_shards
from unijax.data.document import stable_hash

NAMES = ("emoji", "text", "pages", "questions")


def files_of(record):
    names = [record["file"]] if "file" in record else []
    return names + [part["image"] for part in record.get("parts", ()) if "image" in part]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder of assets with a few records of each dataset, two shards each."""
    root = tmp_path_factory.mktemp("assets")
    for name in NAMES:
        chosen, files, wanted = [], {}, {}
        for record, read in read_shards(assets_dir() / name):
            kind = record["split"], record.get("held_out_pair", False)
            if wanted.setdefault(kind, 0) < 5:
                wanted[kind] += 1
                chosen.append(record)
                files |= {file: read(file) for file in files_of(record)}
        (root / name).mkdir()
        write_shards(root / name, chosen, files, files_of, 2, ["a test"])
    return root


@pytest.fixture
def assets(small, tmp_path, monkeypatch):
    """The small assets, this test's own copy, and nothing prepared."""
    shutil.copytree(small, tmp_path / "assets")
    monkeypatch.setenv("UNIJAX_ASSETS", str(tmp_path / "assets"))
    monkeypatch.setenv("UNIJAX_DATA", str(tmp_path / "data"))
    return tmp_path / "assets"


def expected(name, split):
    """The plain dicts that a split should hold, straight from the shards, by id."""
    found = {}
    for record, read in read_shards(assets_dir() / name):
        if name == "emoji" and record["held_out_pair"]:
            record["split"] = "composition"
        if record["split"] != split:
            continue
        plain = {key: value for key, value in record.items() if key not in ("split", "file")}
        if name == "emoji":
            plain.pop("held_out_pair")
            words = ", ".join(record["keywords"][:6])
            plain["captions"] = [record["label"], f"{record['label']}. Keywords: {words}."]
        if "file" in record:
            plain["image"] = read(record["file"])
        if "parts" in record:
            plain["parts"] = [
                {"image": read(part["image"])} if "image" in part else part
                for part in record["parts"]
            ]
        found[record["id"]] = plain
    return found


@pytest.mark.parametrize("name", NAMES)
def test_what_was_shipped_comes_back(assets, name):
    splits = ["train", "validation", "test"] + ["composition"] * (name == "emoji")
    for split in splits:
        dataset, wanted = open_dataset(name, split), expected(name, split)
        assert len(dataset) == len(wanted) == 5
        assert {dataset[i]["id"]: dataset[i] for i in range(len(dataset))} == wanted
        records = (dataset[i] for i in range(len(dataset)))
        assert dataset.labels == [(stable_hash(r["id"]), r.get("category")) for r in records]
    assert "tensorflow" not in sys.modules


def test_order_is_the_same_when_prepared_again(assets, tmp_path):
    first, second = (open_dataset("text", "train", tmp_path / folder) for folder in "ab")
    assert [first[i] for i in range(5)] == [second[i] for i in range(5)]


def test_is_prepared_once_and_survives_pickling(assets):
    open_dataset("text", "train")
    before = {path: path.stat().st_mtime_ns for path in cache_dir().rglob("*")}
    dataset = pickle.loads(pickle.dumps(open_dataset("text", "validation")))
    assert dataset[0]["text"]
    assert {path: path.stat().st_mtime_ns for path in cache_dir().rglob("*")} == before


def test_other_assets_are_prepared_anew(assets):
    open_dataset("text", "train")
    records = [record for record, _ in read_shards(assets / "text")]
    records[0]["text"] = "Something else."
    write_shards(assets / "text", records, {}, files_of, 2, ["a test"])
    dataset = open_dataset("text", records[0]["split"])
    assert "Something else." in [dataset[i]["text"] for i in range(len(dataset))]


def test_a_failure_leaves_nothing_behind(assets, monkeypatch):
    seen = itertools.count()

    def fail(self, record, read):
        if next(seen) == 7:
            raise RuntimeError("the lights went out")
        return {"id": record["id"], "text": record["text"]}

    monkeypatch.setattr(prepare.Text, "example", fail)
    with pytest.raises(RuntimeError, match="lights"):
        open_dataset("text", "train")
    assert list(cache_dir().iterdir()) == []


def test_two_at_once(assets, monkeypatch):
    """A second process finishes while the first is still writing: both read the same whole set."""
    example, inner = prepare.Text.example, []

    def interrupted(self, record, read):
        if not inner:
            inner.append(None)
            inner.append(open_dataset("text", "train"))
        return example(self, record, read)

    monkeypatch.setattr(prepare.Text, "example", interrupted)
    outer = open_dataset("text", "train")
    assert [outer[i] for i in range(5)] == [inner[1][i] for i in range(5)]
    assert len(list(cache_dir().iterdir())) == 1


def message(call, *arguments):
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return str(caught.value)


def test_truncated_shard(assets):
    shard = assets / "text/text-01.zip"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    said = message(open_dataset, "text", "train")
    assert said.startswith(f"{shard}: found truncated, {len(whole) - 100} bytes; ")
    assert f"expected {len(whole)} bytes with SHA-256 " in said
    assert "python assets/text/make.py" in said
    assert list(cache_dir().iterdir()) == []


def test_damaged_shard(assets):
    shard = assets / "emoji/emoji-00.zip"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    said = message(open_dataset, "emoji", "train")
    assert said.startswith(f"{shard}: found damaged bytes with SHA-256 ")
    assert f"expected {len(data)} bytes with SHA-256 " in said


def test_missing_shard_and_manifest(assets):
    (assets / "pages/pages-00.zip").unlink()
    said = message(open_dataset, "pages", "train")
    assert said.startswith(f"{assets}/pages/pages-00.zip: found no such file; expected ")
    (assets / "pages/manifest.json").write_text("{")
    assert "manifest.json: found no JSON (" in message(open_dataset, "pages", "train")
    (assets / "pages/manifest.json").unlink()
    assert "manifest.json: found no such file; " in message(open_dataset, "pages", "train")


def test_prepared_file_cut_short(assets):
    open_dataset("text", "train")
    (path,) = cache_dir().rglob("*train*array_record*")
    whole = path.stat().st_size
    path.write_bytes(path.read_bytes()[:1000])
    said = message(open_dataset, "text", "train")
    assert said.startswith(f"{path}: found 1000 bytes; expected {whole} bytes")
    assert "prepared again on the next use" in said


@pytest.mark.parametrize("whole", ["[]", '{"train": [[1, null]]}', '{"train": [1]}', "{"])
def test_damaged_labels_of_the_right_size(assets, whole):
    # Blocks lost with the power leave a file as long as it was.
    open_dataset("text", "train")
    (path,) = cache_dir().rglob("index.json")
    path.write_text(whole.ljust(path.stat().st_size))
    said = message(open_dataset, "text", "train")
    assert said.startswith(f"{path}: found a damaged file")
    assert "prepared again on the next use" in said


def test_unknown_names(assets):
    assert "Did you mean 'emoji'?" in message(open_dataset, "emojis", "train")
    assert "expected one of emoji, text, pages, questions" in message(open_dataset, "x", "train")
    said = message(open_dataset, "text", "composition")
    assert said.startswith("split of text: found 'composition'; expected one of test, train, valid")


def test_place_that_cannot_be_written(assets, tmp_path):
    (tmp_path / "file").write_text("")
    said = message(open_dataset, "text", "train", tmp_path / "file")
    assert "a place that cannot be written" in said


def test_assets_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIJAX_ASSETS", str(tmp_path / "nowhere"))
    said = message(assets_dir)
    assert said.startswith(f"$UNIJAX_ASSETS: found no folder {tmp_path / 'nowhere'}; ")
    monkeypatch.delenv("UNIJAX_ASSETS")
    assert (assets_dir() / "README.md").is_file()


def test_shards_are_the_same_bytes_from_the_same_records(small, tmp_path):
    manifests = []
    for folder in ("one", "two"):
        (tmp_path / folder / "pages").mkdir(parents=True)
        loaded = list(read_shards(small / "pages"))
        files = {file: read(file) for record, read in loaded for file in files_of(record)}
        records = [record for record, _ in loaded]
        write_shards(tmp_path / folder / "pages", records, files, files_of, 3, ["a test"])
        manifests.append(read_manifest(tmp_path / folder / "pages"))
    assert manifests[0] == manifests[1]
    assert [record for record, _ in read_shards(tmp_path / "one/pages")] == records

"""Objects of a bucket: one thing by a marker that comes last, against a server of S3."""

import json
import os
import threading

import pytest

from unijax.core import lease, storage
from unijax.core.errors import UserError
from unijax.core.files import check_allowed


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIJAX_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_object_is_put_where_there_is_none_by_one_alone(bucket):
    place = f"{bucket}/new/token"
    won = []
    threads = [
        threading.Thread(target=lambda i=i: won.append((storage.put_new(place, b"%d" % i), i)))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [i for ok, i in won if ok]
    assert storage.read(place) == b"%d" % winner


def test_a_folder_is_published_as_one_thing_and_fetched_once(bucket, cache, monkeypatch):
    place = f"{bucket}/out/model"
    with storage.published(place) as folder:
        (folder / "sub").mkdir()
        (folder / "a.txt").write_text("a")
        (folder / "sub" / "b.txt").write_text("b")
    assert json.loads(storage.read(f"{place}/{storage.COMPLETE}")) == ["a.txt", "sub/b.txt"]
    assert storage.BEGUN not in storage.listed(place)
    here = storage.here(place)
    assert (here.name, (here / "sub" / "b.txt").read_text()) == ("model", "b")
    monkeypatch.setattr(storage, "atomic_directory", None)  # nothing is made a second time
    assert storage.here(place) == here
    with pytest.raises(UserError, match="exists already"), storage.published(place):
        pass


def test_what_is_half_done_is_no_folder_and_is_done_again(bucket, cache):
    place = f"{bucket}/out/half"
    half = storage.published(place)
    half.__enter__()
    assert not half.__exit__(RuntimeError, RuntimeError(), None)
    assert storage.listed(place) == {}
    storage.put(f"{place}/{storage.BEGUN}", b"")  # as of a process that was killed
    storage.put(f"{place}/a.txt", b"old")
    with pytest.raises(UserError, match="half done"):
        storage.here(place)
    with storage.published(place) as folder:
        (folder / "b.txt").write_text("b")
    assert sorted(storage.listed(place)) == [storage.COMPLETE, "b.txt"]


def test_a_missing_object_of_a_whole_folder_is_told(bucket, cache):
    place = f"{bucket}/out/lost"
    with storage.published(place) as folder:
        (folder / "a.txt").write_text("a")
    storage.remove_one(f"{place}/a.txt")
    with pytest.raises(UserError, match="1 objects missing"):
        storage.here(place)


def test_an_object_that_changes_is_fetched_again(bucket, cache):
    place = f"{bucket}/data/mine.jsonl"
    storage.put(place, b"one")
    assert storage.here(place).read_bytes() == b"one"
    storage.put(place, b"two")
    assert storage.here(place).read_bytes() == b"two"


def test_copies_of_what_was_there_long_ago_go(bucket, cache):
    """Each checkpoint of a run that was ever drawn from stayed in the cache."""
    place = f"{bucket}/data/changing"
    copies = []
    for content in (b"1", b"22", b"333"):
        storage.put(f"{place}/a", content)
        copies.append(storage.here(place))
    assert [path.exists() for path in copies] == [False, True, True]


def test_messages_name_the_address_of_a_copy(bucket, cache):
    """They named a folder in the cache, or one that was gone."""
    place = f"{bucket}/data/told"
    storage.put(f"{place}/a.jsonl", b"1")
    said = str(UserError(f"{storage.here(place)}/a.jsonl:3", "x", "y", "z"))
    assert said == f"{place}/a.jsonl:3: found x; expected y. z"
    with storage.some_of(place, ["*.jsonl"]) as folder:
        assert UserError(str(folder), "x", "y", "z").where == place


def test_nothing_there_and_unknown_schemes_are_told(bucket, cache):
    with pytest.raises(UserError, match="nothing there"):
        storage.here(f"{bucket}/nowhere")
    with pytest.raises(UserError, match="an address of ftp"):
        storage.here("ftp://host/a")


def test_one_holds_a_run_in_a_bucket(bucket):
    place = f"{bucket}/runs/held"
    with lease.hold(place):
        check_allowed(f"{place}/checkpoints/1")
        with pytest.raises(lease.Held, match=str(os.getpid())), lease.hold(place):
            pass
    with lease.hold(place):  # given back, it can be taken
        pass


def test_a_holder_in_a_bucket_that_was_given_up_writes_no_more(bucket):
    place = f"{bucket}/runs/given_up"
    with lease.hold(place):
        check_allowed(f"{place}/a")
        # Another machine took the next token, as it would after a minute without a sign.
        folder = f"{place}/{lease.FOLDER}"
        storage.put_new(f"{folder}/2", storage.read(f"{folder}/1"))
        with pytest.raises(lease.Lost, match="taken over"):
            check_allowed(f"{place}/a")


def test_a_holder_that_gives_no_sign_is_taken_over(bucket, monkeypatch):
    place = f"{bucket}/runs/silent"
    monkeypatch.setattr(lease._Objects, "give_sign", lambda self, token: None)
    monkeypatch.setattr(lease, "_boot", lambda: "")  # of another machine
    silent = lease._Lease(place, "", 1.0)
    silent.take()
    silent.check()
    with lease.hold(place, seconds=1.0), pytest.raises(lease.Lost, match="taken over"):
        silent.check()
    silent.release()


def test_what_lies_beside_an_object_comes_with_it_where_that_is_asked(bucket, cache):
    for name in ("set/a.jsonl", "set/p/1.PNG", "set/other.bin", "2.png"):
        storage.put(f"{bucket}/beside/{name}", name.encode())
    found = storage.fetched(f"{bucket}/beside/set/a.jsonl", {".png"})
    assert found.name == "a.jsonl"
    names = {p.relative_to(found.parent).as_posix() for p in found.parent.rglob("*.*")}
    assert names - {"listed.json"} == {"a.jsonl", "p/1.PNG"}
    assert storage.fetched(f"{bucket}/beside/set/a.jsonl").read_bytes() == b"set/a.jsonl"


@pytest.mark.parametrize("key", ["ETag", "etag", "md5Hash"])
def test_a_change_is_told_by_whatever_a_bucket_calls_it(key):
    """GCS writes `etag`: an object of the same size was never fetched again."""
    assert storage._about({"size": 3, key: "1"}) != storage._about({"size": 3, key: "2"})


def test_no_bucket_is_told(bucket, cache):
    place = f"{bucket.partition(':')[0]}://nobucket/x"
    with pytest.raises(UserError, match=f"{place}: found no such bucket"):
        storage.put(place, b"1")

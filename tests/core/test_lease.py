"""One process at a time writes in a run directory; one that was given up cannot when it wakes."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from unijax.core import lease
from unijax.core.files import atomic_directory, write_file

# Holds a directory, says so, and writes until it may not.
HOLDER = """
import pathlib, sys, time
from unijax.core import lease
from unijax.core.files import write_file

run_dir = pathlib.Path(sys.argv[1])
with lease.hold(run_dir, float(sys.argv[2])):
    print("held", flush=True)
    while True:
        time.sleep(0.05)
        try:
            write_file(run_dir / "count", "1")
        except lease.Lost as e:
            sys.exit(f"{e}")
"""


@pytest.fixture
def holder(tmp_path):
    started = []

    def start(seconds: float) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path), str(seconds)], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"UNIJAX_JOB": "7_1"},
        )  # fmt: skip
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def stop(process: subprocess.Popen) -> None:
    """SIGSTOP, and until it stands."""
    process.send_signal(signal.SIGSTOP)
    stat = pathlib.Path(f"/proc/{process.pid}/stat")
    while stat.read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.01)


def test_a_directory_that_is_held_is_refused_and_nothing_of_it_is_touched(tmp_path, holder):
    """Two trainers in one directory: both died with tracebacks, or one lost half of its log."""
    process = holder(60)
    (tmp_path / ".count.0123abcd.half").write_text("half")  # the holder writes it
    before = sorted(path.name for path in tmp_path.rglob("*"))
    told = rf"held by process {process.pid} on .*, job 7_1, since .*--run-dir of its own"
    with pytest.raises(lease.Held, match=told), lease.hold(tmp_path):
        pass
    assert ".count.0123abcd.half" in os.listdir(tmp_path)
    assert {*before} - {"count"} <= {path.name for path in tmp_path.rglob("*")}


def test_a_holder_that_was_killed_is_not_waited_for_and_its_halves_are_swept(tmp_path, holder):
    process = holder(3600)
    process.kill()
    process.wait()
    (tmp_path / "checkpoints").mkdir()
    for half in (".metrics.jsonl.0123abcd.half", "checkpoints/.5.89abcdef.half"):
        (tmp_path / half).write_text("half")
    # A date is eight digits of sixteen: the user's own went with the halves.
    kept = [".backup.20251130", ".keep"]
    for name in kept:
        (tmp_path / name).write_text("the user's")
    with lease.hold(tmp_path):
        assert sorted(set(os.listdir(tmp_path)) - {"count"}) == [*kept, "checkpoints", "lease"]
        assert os.listdir(tmp_path / "checkpoints") == []


def test_a_holder_that_was_stopped_for_long_cannot_write_when_it_wakes(tmp_path, holder):
    process = holder(1)
    stop(process)
    with lease.hold(tmp_path, 1.0):
        (tmp_path / "count").write_text("2")
        process.send_signal(signal.SIGCONT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 1
        assert f"taken over by process {os.getpid()}" in said
        assert (tmp_path / "count").read_text() == "2"
        write_file(tmp_path / "count", "3")


def test_what_a_stopped_holder_had_begun_is_gone_before_it_wakes(tmp_path):
    """It may have been stopped between its last look and the name that it gives."""
    with lease.hold(tmp_path):
        begun = atomic_directory(tmp_path / "table")
        temporary = begun.__enter__()
        mine = lease._newest(tmp_path / lease.FOLDER)
        # Another machine gave this process up.
        next_one = tmp_path / lease.FOLDER / str(mine + 1)
        next_one.write_text((tmp_path / lease.FOLDER / str(mine)).read_text())
        (tmp_path / lease.FOLDER / str(mine)).unlink()
        with pytest.raises(lease.Lost):
            begun.__exit__(None, None, None)
        assert not temporary.exists()
        assert not (tmp_path / "table").exists()


def elsewhere(path: pathlib.Path, seconds: float) -> None:
    """A lease of a process of another machine."""
    owner = {
        "host": "elsewhere", "pid": 1, "job": "", "since": time.time(), "seconds": seconds,
        "boot": "another", "began": 1, "mark": "",
    }  # fmt: skip
    path.parent.mkdir()
    path.write_text(json.dumps(owner))


def test_a_holder_elsewhere_is_waited_for_as_long_as_it_says_whatever_the_clocks(tmp_path):
    path = tmp_path / lease.FOLDER / "4"
    elsewhere(path, 0.5)
    os.utime(path, (4e9, 4e9))  # its clock is years ahead
    with lease.hold(tmp_path):
        assert os.listdir(path.parent) == ["5"]


def test_a_sign_of_a_holder_elsewhere_is_noticed(tmp_path):
    path = tmp_path / lease.FOLDER / "4"
    elsewhere(path, 60.0)
    signs = subprocess.Popen(
        [sys.executable, "-c", "import os, sys, time; time.sleep(1); os.utime(sys.argv[1])", path]
    )
    with pytest.raises(lease.Held, match="process 1 on elsewhere"), lease.hold(tmp_path):
        pass
    signs.wait()


def with_field(name: str, value: object) -> bytes:
    """A lease of another machine, but for one of its fields."""
    owner = {
        "host": "elsewhere", "pid": 1, "job": "", "since": 1.0, "seconds": 0.3, "boot": "another",
        "began": 1, "mark": "",
    }  # fmt: skip
    return json.dumps(owner | {name: value}).encode()


NO_LEASES = {
    "cut short": b'{"host": ',
    "no UTF-8": bytes(range(128, 256)),
    "nested deep": b"[" * 100_000,
    "thousands of digits": b"1" * 5000,
    "another object": b"[]",
    "seconds in words": with_field("seconds", "soon"),
    "seconds that never pass": with_field("seconds", float("nan")),
    "a time that no calendar has": with_field("since", 1e30),
    "a process in a list": with_field("pid", ["\0"]),
}


@pytest.mark.parametrize("content", NO_LEASES.values(), ids=NO_LEASES)
def test_a_damaged_lease_is_waited_for(tmp_path, monkeypatch, content):
    """Tracebacks, or a wait without end."""
    monkeypatch.setattr(lease, "SECONDS", 0.3)
    (tmp_path / lease.FOLDER).mkdir()
    (tmp_path / lease.FOLDER / "9").write_bytes(content)
    with lease.hold(tmp_path):
        assert os.listdir(tmp_path / lease.FOLDER) == ["10"]
        (tmp_path / lease.FOLDER / "10").write_bytes(content)
        with pytest.raises(lease.Lost, match="removed or damaged"):
            write_file(tmp_path / "status.json", "{}")


NO_FILES = {
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a circle of links": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("make", NO_FILES.values(), ids=NO_FILES)
def test_what_has_the_name_of_a_lease_and_is_no_file_is_waited_for(tmp_path, monkeypatch, make):
    """A pipe was waited for without end, a device read into all of the memory."""
    monkeypatch.setattr(lease, "SECONDS", 0.3)
    (tmp_path / lease.FOLDER).mkdir()
    make(tmp_path / lease.FOLDER / "9")
    with lease.hold(tmp_path):
        assert os.listdir(tmp_path / lease.FOLDER) == ["10"]
        (tmp_path / lease.FOLDER / "10").unlink()
        make(tmp_path / lease.FOLDER / "10")
        with pytest.raises(lease.Lost, match="removed or damaged"):
            write_file(tmp_path / "status.json", "{}")


def test_names_of_other_files_beside_a_lease_are_no_numbers(tmp_path):
    (tmp_path / lease.FOLDER).mkdir()
    (tmp_path / lease.FOLDER / "\N{SUPERSCRIPT TWO}").write_text("")
    with lease.hold(tmp_path):
        write_file(tmp_path / "status.json", "{}")


def test_what_was_given_back_leaves_nothing_and_its_number_is_not_its_holder(tmp_path):
    with lease.hold(tmp_path):
        before = (tmp_path / lease.FOLDER / "1").read_text()
    assert os.listdir(tmp_path) == []
    with lease.hold(tmp_path):
        (tmp_path / lease.FOLDER / "1").write_text(before)  # as one that was given up long ago
        with pytest.raises(lease.Lost):
            write_file(tmp_path / "status.json", "{}")


def test_a_directory_that_is_moved_away_is_told_and_not_made_again(tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    with lease.hold(run_dir):
        run_dir.rename(tmp_path / "moved")
        with pytest.raises(lease.Lost, match="no such directory"):
            write_file(run_dir / "status.json", "{}")
    assert os.listdir(tmp_path) == ["moved"]

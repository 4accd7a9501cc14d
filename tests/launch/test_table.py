"""The table of a sweep."""

import dataclasses
import json
import os

import pytest

from unijax.core import status
from unijax.core.errors import UserError
from unijax.core.status import Status
from unijax.launch.table import table

NOW = 1_800_000_000.0
RUNNING = Status(
    "a", "running", 1200, 40_000, 2.34567, 81234.5, NOW - 5, "node-1", 1, "40_0",
    goodput=0.934, mfu=0.4567, step_seconds={"p50": 1.2345}, memory_gib=61.25,
)  # fmt: skip


def write(directory, *statuses: Status) -> None:
    for one in statuses:
        status.write(directory / one.run, one)


def test_one_line_a_run_and_a_sum(tmp_path):
    write(
        tmp_path,
        RUNNING,
        dataclasses.replace(
            RUNNING, run="b", state="failed", updated=NOW - 7200, message="data: broken", loss=None
        ),
        dataclasses.replace(RUNNING, run="c", updated=NOW - 1000, attempt=3),
    )
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "runs.txt").write_text("a\tunijax train\nd\tunijax train\n")
    lines = table(tmp_path, NOW).splitlines()
    machine = ["1.23", "45.7%", "93%", "61.2"]
    assert [line.split() for line in lines[:5]] == [
        ["run", "state", "step", "of", "loss", "tokens/s", "s/step", "MFU", "goodput", "GiB",
         "updated", "attempt", "host", "job"],
        ["a", "running", "1,200", "40,000", "2.3457", "81,234", *machine, "5", "s", "ago", "1",
         "node-1", "40_0"],
        ["b", "failed", "1,200", "40,000", "81,234", *machine, "2", "h", "ago", "1",
         "node-1", "40_0"],
        ["c", "silent", "1,200", "40,000", "2.3457", "81,234", *machine, "17", "min", "ago", "3",
         "node-1", "40_0"],
        ["d", "waiting"],
    ]  # fmt: skip
    assert lines[5:] == ["4 runs: 1 failed, 1 running, 1 silent, 1 waiting", "b: data: broken"]


def test_one_run(tmp_path):
    write(tmp_path, RUNNING)
    assert table(tmp_path / "a", NOW).splitlines()[2] == "1 runs: 1 running"


ODD = {"step": None, "loss": "nan", "step_seconds": None, "updated": "yesterday", "state": 3}


@pytest.mark.parametrize("odd", [None, *ODD])
def test_one_unreadable_status_hides_no_other_run(tmp_path, odd):
    write(tmp_path, RUNNING)
    (tmp_path / "b").mkdir()
    whole = dataclasses.asdict(RUNNING)
    text = '{"run": "b", "sta' if odd is None else json.dumps(whole | {odd: ODD[odd]})
    (tmp_path / "b" / status.FILE).write_text(text)
    lines = table(tmp_path, NOW).splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [["a", "running"], ["b", "unreadable"]]
    assert lines[3] == "2 runs: 1 running, 1 unreadable"
    assert lines[4].startswith("b: ")
    assert "what is no status" in lines[4]


HOSTILE = {
    "a number of 400 digits": '{"run": "b", "step": ' + "1" * 400 + "}",
    "a number of 5,000 digits": '{"step": ' + "1" * 5000 + "}",
    "deep nesting": '{"step": ' + "[" * 100_000,
    "a list": "[1]",
    "no UTF-8": b'{"run": "\xff"}',
    "large": '{"run": "' + "b" * 2**21 + '"}',
}


OTHERS = (
    "digits", "pipe", "folder", "a time of 400 digits", "a state of escapes", "a file of /proc",
)  # fmt: skip


@pytest.mark.parametrize("hostile", [*HOSTILE, *OTHERS])
def test_a_hostile_status_hides_no_other_run_and_is_not_waited_for(tmp_path, hostile):
    write(tmp_path, RUNNING)
    (tmp_path / "b").mkdir()
    file = tmp_path / "b" / status.FILE
    whole = dataclasses.asdict(RUNNING)
    if hostile == "pipe":
        os.mkfifo(file)
    elif hostile == "folder":
        file.mkdir()
    elif hostile == "digits":
        file.write_text(json.dumps(whole | {"step_seconds": {"p50": 10**400}}))
    elif hostile == "a state of escapes":
        file.write_text(json.dumps(whole | {"state": "\x1b[31m\n"}))
    elif hostile == "a file of /proc":
        file.symlink_to("/proc/kmsg")  # which has nothing yet, or may not be read
    elif hostile == "a time of 400 digits":
        file.write_text(json.dumps(whole | {"updated": 10**400}))
    else:
        text = HOSTILE[hostile]
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    lines = table(tmp_path, NOW).splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [["a", "running"], ["b", "unreadable"]]
    assert len(lines[4]) < 1000
    assert all(line.isprintable() for line in lines)


def test_escape_sequences_do_not_reach_the_terminal(tmp_path):
    escape = "\x1b]0;owned\x07\x1b[31m"
    odd = {"message": escape, "host": escape, "job": escape, "state": "failed"}
    write(tmp_path, dataclasses.replace(RUNNING, **odd))
    (tmp_path / f"b{escape}").mkdir()
    (tmp_path / f"b{escape}" / status.FILE).write_text('{"x": "' + escape + '"}')
    said = table(tmp_path, NOW)
    assert "owned" in said
    assert all(c == "\n" or c.isprintable() for c in said)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="no status file of a run"):
        table(tmp_path)


def test_a_file_that_is_no_status_is_told(tmp_path):
    (tmp_path / "status.json").write_text('{"run": 1}')
    with pytest.raises(UserError, match="what is no status"):
        status.read(tmp_path)


def test_status_comes_back_as_written(tmp_path):
    status.write(tmp_path, RUNNING)
    assert status.read(tmp_path) == RUNNING
    assert [p.name for p in tmp_path.iterdir()] == ["status.json"]

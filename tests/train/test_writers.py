"""What TensorBoard reads of what was written."""

import json
import os

import pytest

from tests.logs import lines
from tests.train.test_loop import run
from unijax.core.errors import UserError
from unijax.train.events import Events
from unijax.train.writers import Writers, read_log


def test_tensorboard_files_hold_whole_records(tmp_path):
    """Read record by record, as the format says: length, checksum, content, checksum."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    writers = Writers(["tensorboard"], tmp_path, 3)
    writers.scalars(5, {"loss": 2.5, "data/tokens": 7.0})
    writers.texts(6, {"said": "a word"})
    writers.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    content, events = file.read_bytes(), []
    while content:
        length = int.from_bytes(content[:8], "little")
        events.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    assert events[0].file_version == "brain.Event:2"
    assert (events[1].step, events[1].session_log.status) == (4, SessionLog.START)
    scalars = {v.tag: v.simple_value or v.tensor.float_val[0] for v in events[2].summary.value}
    assert (events[2].step, scalars) == (5, {"loss": 2.5, "data/tokens": 7.0})
    assert [v.tag.split("/")[0] for v in events[3].summary.value] == ["said"]


DAMAGES = {
    "no JSON": b'{"step": 5, "lo',
    "no UTF-8": b'{"step": 5, "loss": "\xff"}',
    "a list": b"[1, 2]",
    "a number": b"7",
    "no step": b'{"loss": 1.0}',
    "a step that is text": b'{"step": "5"}',
    "a step that is true": b'{"step": true}',
    "zeros, as a disk that lost its power leaves": b"\0" * 4096,
    "a number of 5,000 digits": b'{"step": ' + b"1" * 5000 + b"}",
    "deep brackets": b'{"step": ' + b"[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_line_of_the_log_does_not_end_every_resume(tmp_path, damage, capsys):
    log = tmp_path / "metrics.jsonl"
    rows = [{"step": step, "loss": 1.0} for step in (5, 10)]
    first, second = (json.dumps(row).encode() for row in rows)
    log.write_bytes(b"\n".join([first, DAMAGES[damage], second]) + b"\n")
    writers = Writers(["jsonl"], tmp_path, 10)
    writers.scalars(15, {"loss": 1.0})
    writers.close()
    assert [row["step"] for row in lines(tmp_path)] == [5, 10, 15]
    assert "1 damaged lines are left out" in capsys.readouterr().err


def test_a_log_that_is_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(UserError, match="no plain file"):
        read_log(tmp_path / "metrics.jsonl")


def test_a_line_that_was_cut_stays_apart_from_the_events_that_follow(tmp_path):
    (tmp_path / "events.jsonl").write_bytes(b'{"event": "sp')
    events = Events(tmp_path)
    events.tell("spike", 5, "a loss that jumped")
    events.close()
    cut, line = (tmp_path / "events.jsonl").read_bytes().splitlines()
    assert cut == b'{"event": "sp'
    assert json.loads(line)["step"] == 5


def test_the_evaluated_step_may_be_damaged(tmp_path):
    for text in ("9" * 5000, "99999999999", "-", "5\n6", ""):
        (tmp_path / "evaluated").write_text(text)
        run(tmp_path, stop_at=5, eval_every=5)

"""What TensorBoard reads of what was written."""

from unijax.train.writers import Writers


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

"""The loss of a head over 8 devices equals that of one, and moves no hidden states."""

from tests import devices


def test_over_devices_equals_one():
    assert devices.run("tests.ops.cross_entropy_devices") == "equal"

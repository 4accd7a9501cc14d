"""Attention over 8 devices equals that of one: rows, heads or positions split."""

from tests import devices


def test_split_over_devices_equals_one():
    assert devices.run("tests.ops.attention_devices") == "equal"

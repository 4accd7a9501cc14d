"""Janus with its rows, their positions, heads and classes split over devices equals that of one."""

from tests import devices


def test_over_devices_equals_one():
    assert devices.run("tests.systems.janus_devices") == "equal"

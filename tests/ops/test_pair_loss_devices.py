"""The losses of pairs over 8 devices equal those of one, and gather no features."""

from tests import devices


def test_over_devices_equals_one():
    assert devices.run("tests.ops.pair_loss_devices", fast=False) == "equal"

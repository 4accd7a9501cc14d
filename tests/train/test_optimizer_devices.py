"""Optimizers on many devices take the steps of one."""

from tests import devices
from unijax.train.stage import KINDS


def test_a_stack_that_is_split_over_devices_is_trained_as_on_one():
    found = dict(line.split() for line in devices.run("tests.train.optimizer_devices").splitlines())
    assert found.keys() == set(KINDS)
    assert max(map(float, found.values())) < 1e-3, found

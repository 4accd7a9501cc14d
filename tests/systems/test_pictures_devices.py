"""Contrastive towers and the image tokenizer over 8 devices equal those of one."""

from tests import devices


def test_over_devices_equals_one():
    assert devices.run("tests.systems.pictures_devices") == "equal"

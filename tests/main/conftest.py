"""A run of the smallest config, for all tests of this directory."""

import pathlib

import pytest

from tests.main import tiny
from unijax.main.run import resolve
from unijax.main.train import train
from unijax.train.state import TrainState


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> tuple[pathlib.Path, TrainState]:
    """A run that never stopped, and its last state."""
    run_dir = tmp_path_factory.mktemp("whole")
    return run_dir, train(resolve(tiny.get_config()), run_dir)

"""Runs of the small Janus by several processes, and what they left."""

import os
import pathlib

import numpy as np
import pytest

from unijax.core import tree
from unijax.train.checkpoint import read_params

TINY = pathlib.Path(__file__).parents[1] / "main" / "tiny.py"
SHORT = ("validation.samples=0", "validation.batches=1")

NOT_ASKED = pytest.mark.skipif(
    "SLURM_TEST" not in os.environ, reason="minutes, and a SLURM on this machine: make slurm-test"
)


def same_bits(a: pathlib.Path, b: pathlib.Path) -> None:
    """Asserts that two runs ended with the same parameters."""
    ours, theirs = tree.flatten(read_params(a)), tree.flatten(read_params(b))
    assert ours.keys() == theirs.keys()
    for path, x in ours.items():
        assert np.asarray(x).tobytes() == np.asarray(theirs[path]).tobytes(), path

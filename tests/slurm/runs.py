"""Runs of the small Janus by several processes, and what they left."""

import json
import os
import pathlib

import numpy as np
import pytest

from unijax.core import tree
from unijax.train.checkpoint import read_params

TINY = pathlib.Path(__file__).parents[1] / "main" / "tiny.py"
SHORT = ("validation.samples=0", "validation.batches=1")
_TIMING = ("seconds_per_step", "tokens_per_second", "model_flops_per_second")

NOT_ASKED = pytest.mark.skipif(
    "SLURM_TEST" not in os.environ, reason="minutes, and a SLURM on this machine: make slurm-test"
)


def lines(run_dir: pathlib.Path) -> list[dict]:
    """The log, but for times."""
    rows = [json.loads(x) for x in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(_TIMING)} for row in rows]


def same_bits(a: pathlib.Path, b: pathlib.Path) -> None:
    """Asserts that two runs ended with the same parameters."""
    ours, theirs = tree.flatten(read_params(a)), tree.flatten(read_params(b))
    assert ours.keys() == theirs.keys()
    for path, x in ours.items():
        assert np.asarray(x).tobytes() == np.asarray(theirs[path]).tobytes(), path

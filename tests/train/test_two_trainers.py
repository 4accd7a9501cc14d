"""Two trainers in one run directory."""

import json
import pathlib
import signal
import time

import numpy as np

from tests import processes
from tests.logs import lines
from unijax.core import exit_codes, status, tree
from unijax.train.checkpoint import read_params

STEPS = ("--steps", "400", "--save-every", "40")


def start(run_dir: pathlib.Path, *more: str):
    (process,) = processes.start(1, "tests.train.toy_process", "--run-dir", str(run_dir), *more)
    return process


def saved(run_dir: pathlib.Path) -> int:
    """Step of the newest checkpoint; -1 without one."""
    names = [path.name for path in (run_dir / "checkpoints").glob("*")]
    return max([int(name) for name in names if name.isdigit()], default=-1)


def test_a_trainer_that_was_stopped_and_given_up_cannot_spoil_the_one_that_goes_on(tmp_path):
    """One ended well with 70 of 90 lines in its log, or both with tracebacks."""
    run_dir, whole = tmp_path / "run", tmp_path / "whole"
    first = start(run_dir, *STEPS, "--pause", "0.3", "--lease-seconds", "2")
    while saved(run_dir) < 40:
        assert first.poll() is None
        time.sleep(0.05)
    # Alive, it is not waited for, and nothing is touched.
    assert processes.ended([start(run_dir, *STEPS)]) == [exit_codes.MISTAKE]
    first.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    second = start(run_dir, *STEPS)
    owner = json.loads((run_dir / "lease" / "1").read_text())
    assert owner["pid"] == first.pid
    while not (run_dir / "lease" / "2").exists():
        assert second.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGCONT)
    assert processes.ended([first, second]) == [exit_codes.MISTAKE, 0]
    assert processes.ended([start(whole, *STEPS)]) == [0]
    assert status.read(run_dir).state == "done"
    assert not (run_dir / "lease").exists()
    assert lines(run_dir) == lines(whole)
    theirs = tree.flatten(read_params(whole))
    for path, x in tree.flatten(read_params(run_dir)).items():
        np.testing.assert_array_equal(x, theirs[path], err_msg=path)

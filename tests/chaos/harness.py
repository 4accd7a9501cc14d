"""Kills a run with SIGKILL again and again, and compares it with one that was let alone."""

import dataclasses
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np

from tests.logs import lines
from unijax.core import tree
from unijax.train.checkpoint import read_params

_HALF = "checkpoints/*.orbax-checkpoint-tmp"
_ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "JAX_DEFAULT_MATMUL_PRECISION": "highest"}


@dataclasses.dataclass
class Kill:
    """One kill.

    Attributes:
      seconds: after the start of the process.
      saving: whether a checkpoint was being written.
      step: of the newest whole checkpoint; -1 for none.
    """

    seconds: float
    saving: bool
    step: int


def start(module: str, run_dir: pathlib.Path, arguments: Sequence[str]) -> subprocess.Popen:
    """`python -m module --run-dir RUN_DIR arguments`; what it says is appended to a file."""
    log = run_dir.with_suffix(".out").open("a")
    command = [sys.executable, "-m", module, "--run-dir", str(run_dir), *arguments]
    return subprocess.Popen(command, env=os.environ | _ENVIRONMENT, stdout=log, stderr=log)


def newest(run_dir: pathlib.Path) -> int:
    """Step of the newest whole checkpoint; -1 for none."""
    names = [path.name for path in (run_dir / "checkpoints").glob("*")]
    return max([int(name) for name in names if name.isdigit()], default=-1)


def kill(
    process: subprocess.Popen, run_dir: pathlib.Path, chance: random.Random, seconds: float
) -> Kill | None:
    """Kills it at a random moment, every other time while it saves; None if it ended before.

    Args:
      seconds: a process lives at most so long, unless it is to be killed while it saves.
    """
    begun = time.monotonic()
    strikes_save = chance.choice([0, 0, 1, 2])  # which one; 0: any moment
    moment, delay = chance.uniform(0, seconds), chance.uniform(0, 0.05)
    # What the last kill left is removed when the run begins: it is no save of this process.
    saves, saving = 0, any(run_dir.glob(_HALF))
    while process.poll() is None:
        before, saving = saving, any(run_dir.glob(_HALF))
        saves += saving and not before
        if strikes_save and saves == strikes_save:
            time.sleep(delay)
        elif strikes_save or time.monotonic() - begun < moment:
            time.sleep(0.002)
            continue
        found = saves > 0 and any(run_dir.glob(_HALF))
        process.send_signal(signal.SIGKILL)
        process.wait()
        return Kill(time.monotonic() - begun, found, newest(run_dir))
    assert process.returncode == 0, run_dir.with_suffix(".out").read_text()[-3000:]
    return None


def chaos(
    module: str,
    run_dir: pathlib.Path,
    arguments: Sequence[str],
    kills: int,
    chance: random.Random,
    seconds: float,
) -> list[Kill]:
    """A run that is killed so often, or until it ends by itself, and then let alone."""
    done: list[Kill] = []
    while len(done) < kills:
        struck = kill(start(module, run_dir, arguments), run_dir, chance, seconds)
        if struck is None:
            return done
        done.append(struck)
        print(f"kill {len(done)}: {struck}", flush=True)
    assert start(module, run_dir, arguments).wait() == 0
    return done


def documents(run_dir: pathlib.Path) -> list[list[str]]:
    """The documents of every step of the history that survived, in the order of the steps."""
    by_step: dict[int, list[str]] = {}
    for line in (run_dir / "documents.jsonl").read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # it was being written
        by_step[row["step"]] = row["documents"]
    assert sorted(by_step) == list(range(1, len(by_step) + 1))
    return [by_step[step] for step in sorted(by_step)]


def check_equal(run_dir: pathlib.Path, whole: pathlib.Path) -> None:
    """Asserts that a run ended as another: parameters and log to the bit, and documents."""
    ours, theirs = (tree.flatten(read_params(place)) for place in (run_dir, whole))
    assert ours.keys() == theirs.keys()
    for path, x in ours.items():
        assert np.asarray(x).tobytes() == np.asarray(theirs[path]).tobytes(), path
    assert lines(run_dir) == lines(whole)
    seen = documents(run_dir)
    assert seen == documents(whole)
    names = [name for step in seen for name in step]
    assert len(names) == len(set(names))

"""Losses, parameters and optimizer state of twenty steps, to the bit, before and after a refactor.

    python -m bench.step_bits RUN_DIR > before.txt      # at one commit
    python -m bench.step_bits RUN_DIR > after.txt       # at another, on the same machine
    diff before.txt after.txt

Trains the small Janus of the tests by the command line, which outlives changes inside. Prints the
losses of every step as hexadecimal floats, and a digest of every array of the last checkpoint.
"""

import hashlib
import json
import pathlib
import sys

import numpy as np
import orbax.checkpoint as ocp

from unijax.main.cli import main

STEPS = 20
CONFIG = pathlib.Path(__file__).parents[1] / "tests" / "main" / "tiny.py"


def losses(run_dir: pathlib.Path) -> list[str]:
    """A line a step: every loss, in the order of names."""
    found = []
    for row in map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines()):
        named = sorted((k, v) for k, v in row.items() if k.split("/")[-1] == "loss")
        words = " ".join(f"{name}={float(value).hex()}" for name, value in named)
        if words:
            found.append(f"{row['step']} {words}")
    return found


def arrays(run_dir: pathlib.Path) -> list[str]:
    """A line an array of the checkpoint: its path, shape, dtype and SHA-1."""
    place = (run_dir / "checkpoints" / str(STEPS)).resolve()
    found = []

    def walk(node, path):
        if isinstance(node, dict):
            for name in sorted(node):
                walk(node[name], f"{path}/{name}")
        elif isinstance(node, list | tuple):
            for i, one in enumerate(node):
                walk(one, f"{path}/{i}")
        elif node is not None:
            x = np.asarray(node)
            found.append(f"{path} {x.shape} {x.dtype} {hashlib.sha1(x.tobytes()).hexdigest()}")

    for item in ("params", "optimizer", "ema"):
        walk(ocp.PyTreeCheckpointer().restore(place / item), item)
    return found


if __name__ == "__main__":
    run_dir = pathlib.Path(sys.argv[1])
    words = ["train", "--config", str(CONFIG), "--run-dir", str(run_dir), "--stop-at", str(STEPS)]
    if main([*words, "validation.samples=0"]):
        sys.exit(1)
    print("\n".join([*losses(run_dir), *arrays(run_dir)]))

"""`python -m tests.faults.memory FOLDER`: what is not freed after a save, of the toy or a Janus."""

import argparse
import gc
import pathlib
import sys

import jax.numpy as jnp

from tests.faults.saves import DESCRIPTION, Saver
from tests.main import tiny
from unijax.core import heap
from unijax.main.run import resolve
from unijax.main.train import build
from unijax.parallel.sharding import make_mesh
from unijax.train.checkpoint import Checkpoints
from unijax.train.state import TrainState


def resident() -> float:
    """MB of this process in memory."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def janus() -> TrainState:
    run = resolve(tiny.get_config())
    trainer = build(run, make_mesh(run.mesh))[1]
    return trainer.begin(trainer.init(7))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--saves", type=int, default=400)
    parser.add_argument("--first", type=int, default=100, help="the save to compare the last with")
    parser.add_argument("--janus", action="store_true", help="tests/main/tiny.py, not the toy")
    args = parser.parse_args()
    heap.use_few_arenas()  # as the command does
    state, checkpoints = janus() if args.janus else Saver().state, Checkpoints(args.folder, keep=1)
    for step in range(1, args.saves + 1):
        checkpoints.save(state.replace(step=jnp.int32(step)), DESCRIPTION, {})
        checkpoints.wait()
        if step in (args.first, args.saves):
            gc.collect()
            now = (sys.getallocatedblocks(), resident())
            before = now if step == args.first else before
    checkpoints.close()
    saves = args.saves - args.first
    blocks, megabytes = ((b - a) / saves for a, b in zip(before, now))
    print(
        f"{blocks:.1f} blocks and {megabytes:.4f} MB a save, of saves {args.first} to "
        f"{args.saves}: {before[1]:.1f} to {now[1]:.1f} MB"
    )


if __name__ == "__main__":
    main()

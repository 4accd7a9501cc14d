"""`python -m tests.faults.memory FOLDER`: what is not freed after a save."""

import argparse
import gc
import pathlib
import sys

from tests.faults.saves import Saver
from unijax.train.checkpoint import Checkpoints


def resident() -> float:
    """MB of this process in memory."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--saves", type=int, default=400)
    parser.add_argument("--first", type=int, default=100, help="the save to compare the last with")
    args = parser.parse_args()
    saver, checkpoints = Saver(), Checkpoints(args.folder, keep=1)
    for step in range(1, args.saves + 1):
        saver.save(checkpoints, step)
        checkpoints.wait()
        if step in (args.first, args.saves):
            gc.collect()
            now = (sys.getallocatedblocks(), resident())
            before = now if step == args.first else before
    checkpoints.close()
    saves = args.saves - args.first
    blocks, megabytes = ((b - a) / saves for a, b in zip(before, now))
    print(
        f"{blocks:.1f} blocks and {megabytes:.4f} MB a save, of saves {args.first} to {args.saves}"
    )


if __name__ == "__main__":
    main()

"""`python -m tests.chaos`: a run that is killed 50 times (`make chaos`)."""

import argparse
import collections
import pathlib
import random
import shutil
import time

from tests.chaos.harness import chaos, check_equal, start

# The smallest system, whose runs start in seconds, and `unijax train` on the small Janus.
PROGRAMS = {
    "toy": (
        "tests.train.toy_process",
        ("--steps", "4000", "--pause", "0.01", "--save-every", "20", "--eval-every", "100",
         "--documents"),
    ),
    "janus": (
        "tests.chaos.program",
        ("stage.steps=600", "loop.log_every=5", "loop.save_every=10", "loop.eval_every=50",
         "validation.samples=0", "validation.batches=1"),
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", choices=PROGRAMS, default="janus")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60, help="of the longest life")
    parser.add_argument("--dir", type=pathlib.Path, default=pathlib.Path("chaos"))
    args = parser.parse_args()
    shutil.rmtree(args.dir, ignore_errors=True)
    args.dir.mkdir(parents=True)
    begun, chance = time.time(), random.Random(args.seed)
    whole = args.dir / "whole"
    module, arguments = PROGRAMS[args.program]
    assert start(module, whole, arguments).wait() == 0, whole.with_suffix(".out").read_text()
    print(f"the run that is let alone took {time.time() - begun:.0f} s", flush=True)
    kills, runs = [], 0
    while len(kills) < args.kills:
        run_dir = args.dir / f"run{runs}"
        left = args.kills - len(kills)
        kills += chaos(module, run_dir, arguments, left, chance, args.seconds)
        check_equal(run_dir, whole)
        runs += 1
        print(f"run {runs} is equal to the one that was let alone", flush=True)
    where = collections.Counter("saving" if kill.saving else "elsewhere" for kill in kills)
    before = sum(kill.step < 0 for kill in kills)
    print(
        f"{len(kills)} kills in {runs} runs, {dict(where)}, {before} before the first checkpoint; "
        f"all runs equal; {time.time() - begun:.0f} s"
    )


if __name__ == "__main__":
    main()

"""`python -m tests.faults.kills FOLDER`: SIGKILL at a call of a save, then what is left is used.

Strikes at every so manieth rename, unlink, rmdir, mkdir and fsync of four saves that keep one
checkpoint, empties what was not synced, as a machine that loses its power may, and looks: every
checkpoint that is listed can be restored, and the next attempt sweeps what was left.
"""

import argparse
import os
import pathlib
import shutil
import sys

from tests.faults.saves import Saver
from tests.faults.shim import start
from unijax.train.checkpoint import Checkpoints, Damaged, whole_steps

CALLS = ("rename", "unlink", "rmdir", "mkdir", "fsync")
STEPS = (1, 2, 3, 4)


def write(folder: pathlib.Path) -> None:
    """Saves four times."""
    saver, checkpoints = Saver(), Checkpoints(folder, keep=1)
    for step in STEPS:
        saver.save(checkpoints, step)
        checkpoints.wait()
    checkpoints.close()


def lose_power(folder: pathlib.Path, trace: pathlib.Path) -> None:
    """Empties the files that were not synced after they were written last."""
    lost: set[int] = set()
    for line in trace.read_text().splitlines():
        what, inode = line.split()
        (lost.add if what == "w" else lost.discard if what == "s" else lambda _: None)(int(inode))
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_ino in lost:
            os.truncate(path, 0)


def check(saver: Saver, folder: pathlib.Path) -> list[int]:
    """The steps that are left, each restored and equal; and an attempt that goes on from them."""
    steps = sorted(whole_steps(folder))
    for step in steps:
        one = folder.with_name("one")
        shutil.rmtree(one, ignore_errors=True)
        shutil.copytree(folder / "checkpoints" / str(step), one / "checkpoints" / str(step))
        checkpoints = Checkpoints(one, keep=1)
        try:
            state, _ = checkpoints.restore(
                saver.like, saver.trainer.rules, lambda saved: None, lambda step, error: None
            )
        except Damaged as e:
            raise AssertionError(f"step {step} is listed and cannot be restored: {e}") from e
        finally:
            checkpoints.close()
        assert int(state.step) == step
    checkpoints = Checkpoints(folder, keep=1)
    saver.save(checkpoints, 9)
    checkpoints.wait()
    checkpoints.close()
    left = [path.name for path in (folder / "checkpoints").iterdir()]
    assert left == ["9"], left
    return steps


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--calls", nargs="*", default=CALLS)
    parser.add_argument("--first", type=int, default=1, help="number of the first call struck")
    parser.add_argument("--every", type=int, default=1, help="strike at every so manieth call")
    parser.add_argument("--most", type=int, default=0, help="kills of a kind; 0: at every call")
    parser.add_argument("--within", help="part of the paths that are counted; all of the run's")
    parser.add_argument("--write", action="store_true", help="save, to be killed")
    args = parser.parse_args()
    run_dir, trace = args.folder / "run", args.folder / "trace"
    if args.write:
        return write(run_dir)
    saver, kills, without = Saver(), 0, 0
    for call in args.calls:
        nth, last = args.first, kills + (args.most or 10**9)
        while kills < last:
            shutil.rmtree(args.folder, ignore_errors=True)
            args.folder.mkdir(parents=True)
            how = {"FAULT_CALL": call, "FAULT_NTH": str(nth), "FAULT_ERRNO": "0"}
            more = {"FAULT_FOLDER": args.within or str(run_dir), "FAULT_TRACE": str(trace)}
            process = start("-m", "tests.faults.kills", str(args.folder), "--write", **how, **more)
            said, _ = process.communicate(timeout=300)
            if process.returncode == 0:
                break
            assert process.returncode == -9, said
            lose_power(run_dir, trace)
            steps = check(saver, run_dir)
            kills += 1
            without += not steps
            print(f"{call} {nth}: {steps} are left", flush=True)
            nth += args.every
    print(f"{kills} kills; {without} before the first checkpoint")


if __name__ == "__main__":
    sys.exit(main())

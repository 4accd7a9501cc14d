"""One process of a run of the toy: `python -m tests.train.toy_process --run-dir DIR`."""

import argparse
import errno
import json
import os
import pathlib
import signal
import sys
import threading
import time

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from tests.train.toy import Toy, ToyBatches, toy_stage
from unijax.core import exit_codes, lease
from unijax.core.errors import Preempted, Unwritable
from unijax.core.files import writable_directory
from unijax.main import distributed
from unijax.parallel.sharding import MeshConfig, make_mesh, reader
from unijax.train import setup
from unijax.train.guard import POLICIES
from unijax.train.loop import LoopConfig, fit, validation
from unijax.train.status import StatusKeeper


class OwnRows(ToyBatches):
    """This process's rows of the stream.

    SIGTERM reaches the last process alone, which may hang. The last row of the batch `bad_at`,
    which is that process's, has a value that is not finite.
    """

    def __init__(
        self, share: tuple[int, int], sigterm_at: int, hang_at: int, bad_at: int, pause: float,
        note: pathlib.Path | None,
    ):  # fmt: skip
        super().__init__()
        self._share = share
        self._sigterm_at, self._hang_at, self._pause = sigterm_at, hang_at, pause
        self._bad_at, self._note = bad_at, note

    def __next__(self):
        time.sleep(self._pause)
        last = jax.process_index() == jax.process_count() - 1
        if last and self._drawn == self._sigterm_at:
            os.kill(os.getpid(), signal.SIGTERM)
        if last and self._drawn == self._hang_at:
            self._wait_for_nothing()
        is_bad = self._drawn == self._bad_at
        whole = super().__next__()
        if is_bad:
            whole["x"][-1, 0] = float("nan")
        if self._note is not None:
            with self._note.open("a") as file:
                names = list(self.documents.values())
                file.write(json.dumps({"step": self._drawn, "documents": names}) + "\n")
        index, count = self._share
        local = self._rows // count
        start = index * local
        return {name: x[start : start + local] for name, x in whole.items()}

    def _wait_for_nothing(self):
        threading.Event().wait()


def end_in_evaluation(is_now: bool) -> None:
    """SIGTERM to this process, and time for all to hear of it."""
    if is_now:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(3)


def fail_to_read_one() -> None:
    """In this process the next checkpoint cannot be read, though its files are whole."""
    restore, tries = ocp.StandardCheckpointHandler.restore, iter((1, 2))

    def fail(*args, **kwargs):
        if next(tries) == 2:
            ocp.StandardCheckpointHandler.restore = restore
        raise ValueError("the disk of one host")

    ocp.StandardCheckpointHandler.restore = fail


def fail_to_write_later() -> None:
    """In this process the second checkpoint that is written in the background is not."""
    wait, calls = ocp.CheckpointManager.wait_until_finished, []

    def fail(self):
        wait(self)
        calls.append(self.latest_step())
        if len(set(calls) - {None}) > 1:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    ocp.CheckpointManager.wait_until_finished = fail


def main() -> int:
    """Trains; returns the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-dir", type=pathlib.Path, required=True)
    parser.add_argument("--table", choices=("data", "fsdp", "fsdp_tensor"), default="fsdp")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds before every step")
    parser.add_argument("--sigterm-at", type=int, default=-1)
    parser.add_argument("--hang-at", type=int, default=-1)
    parser.add_argument("--bad-at", type=int, default=-1)
    parser.add_argument("--non-finite", choices=POLICIES, default="stop")
    parser.add_argument("--hang-seconds", type=float, default=1800)
    parser.add_argument("--save-every", type=int, default=0)
    parser.add_argument("--eval-every", type=int, default=0)
    parser.add_argument("--sigterm-evaluating", type=int, default=-1, help="at this step")
    parser.add_argument("--last-cannot-read", action="store_true", help="one tree of arrays")
    parser.add_argument("--last-cannot-write", action="store_true", help="its second checkpoint")
    parser.add_argument("--lease-seconds", type=float, default=lease.SECONDS)
    parser.add_argument("--documents", action="store_true", help="notes those of every step")
    args = parser.parse_args()
    distributed.join()
    if args.last_cannot_read and jax.process_index() == jax.process_count() - 1:
        fail_to_read_one()
    if args.last_cannot_write and jax.process_index() == jax.process_count() - 1:
        fail_to_write_later()
    stage = toy_stage(steps=args.steps, ema_decay=0.9)
    sizes = {
        "data": MeshConfig(),
        "fsdp": MeshConfig(data=1, fsdp=-1, table="fsdp"),
        "fsdp_tensor": MeshConfig(data=1, tensor=-1, table="fsdp_tensor"),
    }
    mesh = make_mesh(sizes[args.table])
    trainer = setup.build(Toy(), stage, mesh, args.table, jnp.float32, seed=3)
    state = trainer.begin(trainer.init(7))
    loop = LoopConfig(
        log_every=20, writers=("jsonl",), hang_seconds=args.hang_seconds,
        save_every=args.save_every, eval_every=args.eval_every, non_finite=args.non_finite,
    )  # fmt: skip
    description = {"stage": stage.name, "config": {}}
    note = args.run_dir / "documents.jsonl" if args.documents else None
    batches = OwnRows(reader(mesh), args.sigterm_at, args.hang_at, args.bad_at, args.pause, note)
    evaluators = {}
    if args.eval_every:
        held_out = [next(ToyBatches(9))]
        evaluators["held out"] = validation("held out", trainer.eval_step, held_out, trainer.put)
        evaluators["ended"] = lambda state, step, writers: end_in_evaluation(
            step == args.sigterm_evaluating
        )
    writable_directory(args.run_dir)
    try:
        with (
            lease.hold(args.run_dir, args.lease_seconds),
            StatusKeeper(args.run_dir, stage.steps) as keeper,
        ):
            state = fit(
                state, trainer, batches, stage.steps, loop, args.run_dir, description, evaluators,
                None, [keeper],
            )  # fmt: skip
            keeper.finish(int(state.step))
    except Preempted:
        return exit_codes.PREEMPTED
    except Unwritable:
        distributed.leave(exit_codes.UNWRITABLE)
    except (lease.Held, lease.Lost) as e:
        print(f"error: {e}", file=sys.stderr)
        return exit_codes.MISTAKE
    return exit_codes.DONE


if __name__ == "__main__":
    sys.exit(main())

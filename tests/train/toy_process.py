"""One process of a run of the toy: `python -m tests.train.toy_process DIR TABLE [SIGTERM_AT]`."""

import os
import pathlib
import signal
import sys

import jax
import jax.numpy as jnp

from tests.train.toy import Toy, ToyBatches, toy_stage
from unijax.core import exit_codes
from unijax.core.errors import Preempted
from unijax.main import distributed
from unijax.parallel.sharding import MeshConfig, make_mesh
from unijax.train import setup
from unijax.train.loop import LoopConfig, fit
from unijax.train.status import StatusKeeper


class OwnRows(ToyBatches):
    """This process's rows of the stream. SIGTERM reaches the last process alone."""

    def __init__(self, sigterm_at: int):
        super().__init__()
        self._sigterm_at = sigterm_at

    def __next__(self):
        last = jax.process_index() == jax.process_count() - 1
        if last and self._drawn == self._sigterm_at:
            os.kill(os.getpid(), signal.SIGTERM)
        whole = super().__next__()
        local = self._rows // jax.process_count()
        start = jax.process_index() * local
        return {name: x[start : start + local] for name, x in whole.items()}


def main(run_dir: pathlib.Path, table: str, sigterm_at: int) -> int:
    """Trains; returns the exit status."""
    distributed.join()
    stage = toy_stage(steps=200, ema_decay=0.9)
    sizes = {"data": MeshConfig(), "fsdp": MeshConfig(data=1, fsdp=-1, table="fsdp")}
    trainer = setup.build(Toy(), stage, make_mesh(sizes[table]), table, jnp.float32, seed=3)
    state = trainer.begin(trainer.init(7))
    loop = LoopConfig(log_every=20, writers=("jsonl",))
    description = {"stage": stage.name, "config": {}}
    try:
        with StatusKeeper(run_dir, stage.steps) as keeper:
            state = fit(
                state, trainer.train_step, OwnRows(sigterm_at), trainer.put, stage.steps, loop,
                run_dir, description, trainer.rules, {}, None, [keeper],
            )  # fmt: skip
            keeper.finish(int(state.step))
    except Preempted:
        return exit_codes.PREEMPTED
    return exit_codes.DONE


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]), sys.argv[2], int((*sys.argv, -1)[3])))

"""One run, several lengths: a constant learning rate shared, then a decay of its own for each.

With the schedule "constant_decay" two runs that differ in their length alone take the same steps
until the shorter one starts to decay. So the longest is trained up to there, the shorter one goes
on from a copy of that checkpoint, and its result is the one it would have had alone, to the bit.
"""

import dataclasses
import os
import shutil

from unijax.core import lease, storage
from unijax.core.errors import UserError
from unijax.core.files import atomic_directory
from unijax.core.paths import is_address
from unijax.data.batch import Cached
from unijax.main.run import RunConfig
from unijax.main.train import train
from unijax.train.checkpoint import FOLDER, whole_steps
from unijax.train.guard import NotFinite
from unijax.train.stage import OptimizerConfig
from unijax.train.state import TrainState
from unijax.train.writers import FILE as LOG


class TrunkNotFinite(NotFinite):
    """The steps that runs share are not finite: no run that needs them can be trained."""


def with_length(run: RunConfig, steps: float) -> RunConfig:
    """The run with about so many steps: a whole number of logged periods, its decay too.

    Raises:
      UserError: if no step at the full learning rate would be left.
    """
    every = run.loop.log_every
    whole = max(every, round(steps / every) * every)
    optimizers = {}
    for name, o in run.stage.optimizers.items():
        rest = whole - o.warmup_steps
        if rest <= 0:
            raise UserError(
                f"stage.optimizers.{name}.warmup_steps",
                f"{o.warmup_steps} in a run of {whole} steps",
                "fewer than the steps of the shortest run",
                "Lower it, or leave the shortest runs out.",
            )
        if o.schedule == "constant_decay":
            decay = max(every, round(o.decay_fraction * rest / every) * every)
            o = dataclasses.replace(o, decay_fraction=min(decay / rest, 1.0))
        optimizers[name] = o
    stage = dataclasses.replace(run.stage, steps=whole, optimizers=optimizers)
    return dataclasses.replace(run, stage=stage)


def decay_start(config: OptimizerConfig, steps: int) -> int:
    """The first step whose rate is below the peak's."""
    return steps - max(round(config.decay_fraction * (steps - config.warmup_steps)), 1)


def train_on_trunk(
    run: RunConfig,
    run_dir: str | os.PathLike,
    trunk: RunConfig,
    trunk_dir: str | os.PathLike,
    tables: dict[str, Cached] | None = None,
) -> TrainState:
    """Trains `run`, taking the steps that it shares with `trunk` from there.

    Args:
      run_dir, trunk_dir: paths, or addresses.
      tables: see `train`.

    Raises:
      UserError: if an optimizer has another schedule than "constant_decay".
      TrunkNotFinite: if the steps up to where `run` leaves the trunk are not finite.
    """
    optimizers = run.stage.optimizers
    for name, o in optimizers.items():
        if o.schedule != "constant_decay":
            raise UserError(
                f"stage.optimizers.{name}.schedule", repr(o.schedule),
                "'constant_decay', to share the constant part of runs",
                "Change it, or set share_trunk to False in the sweep.",
            )  # fmt: skip
    branch = min(decay_start(o, run.stage.steps) for o in optimizers.values())
    if not whole_steps(run_dir):
        reached = max(whole_steps(trunk_dir), default=0)
        if reached < branch:
            try:
                train(trunk, trunk_dir, stop_at=branch, tables=tables)
            except NotFinite as e:
                raise TrunkNotFinite(e.where, e.found, e.expected, e.fix) from e
            reached = branch
        # A trunk that went on before this run was asked for has nothing to give it.
        if reached == branch:
            _copy(trunk_dir, run_dir, branch)
    return train(run, run_dir, tables=tables)


def _copy(trunk_dir: str | os.PathLike, run_dir: str | os.PathLike, step: int) -> None:
    """The checkpoint and the log, the checkpoint last: with it the run counts as begun."""
    storage.writable(run_dir)
    with lease.hold(run_dir):
        storage.write_in(run_dir, LOG, storage.read_in(trunk_dir, LOG) or b"")
        saved, to = (storage.below(d, FOLDER, str(step)) for d in (trunk_dir, run_dir))
        if is_address(run_dir):
            storage.copy(saved, to)
            return
        with atomic_directory(to) as temporary:
            shutil.copytree(saved, temporary, dirs_exist_ok=True)

"""The one loop.

Its order is fixed: save if due, evaluate if due, next batch, step, report. Saving comes before
evaluating, so that an evaluation that fails loses nothing; the batch is drawn after the save, so
that the data state that is saved names exactly the batches that were trained on. A run that is
asked to end saves, evaluates if that was due, and ends there.

What a step did is judged a step late (`train.guard`), and always before the state is saved.
"""

import contextlib
import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from tqdm import tqdm

from unijax.core.errors import UserError
from unijax.core.files import discard, write_file
from unijax.core.processes import is_lead, of_the_lead
from unijax.core.record import added
from unijax.core.system import Metrics, Params
from unijax.train import base as base_lib
from unijax.train import metrics as metrics_lib
from unijax.train.checkpoint import DAMAGED, Checkpoints, Damaged, NotSaved, abstract
from unijax.train.events import Events
from unijax.train.guard import POLICIES, Guard
from unijax.train.preemption import Preemption
from unijax.train.report import Report
from unijax.train.resume import check_resumable
from unijax.train.setup import Trainer
from unijax.train.state import TrainState
from unijax.train.watchdog import Watchdog
from unijax.train.writers import WRITERS, Writer, Writers

# The last checkpoint of a run is tried so often where the disk is full or away, soon at first, then
# so many seconds apart.
_LAST_TRIES, _LAST_PAUSE = 24, 30.0


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """Periods in optimizer steps; 0 means at the end only.

    Attributes:
      log_every: metrics are averages over this many steps.
      eval_every: validation losses and samples.
      save_every: checkpoints.
      keep: number of newest checkpoints that stay.
      keep_every: checkpoints of multiples of so many steps stay for good; 0 for none.
      writers: some of "jsonl", "tensorboard", "wandb".
      non_finite: what follows a step whose loss or gradient is not finite; it is never applied.
        "stop"; "skip": go on with the next batch; "roll_back": go on from the last checkpoint with
        the data that follows.
      max_non_finite: so many such steps of a run are skipped or undone, then it stops.
      hang_seconds: a process that does nothing for so long (a step, a save, one evaluation) ends
        itself, to be started again; 0 for never.
      save_frozen: False leaves out of checkpoints what the stage freezes, but for adapters: it is
        read from the run that this one starts from (`train.base`).
    """

    log_every: int = 50
    eval_every: int = 0
    save_every: int = 0
    keep: int = 2
    keep_every: int = 0
    writers: tuple[str, ...] = ("jsonl", "tensorboard")
    non_finite: str = "stop"
    max_non_finite: int = 10
    hang_seconds: float = 1800.0
    save_frozen: bool = added(True)

    def __post_init__(self):
        if unknown := sorted(set(self.writers) - set(WRITERS)):
            raise UserError(
                "loop.writers", f"{unknown}", f"some of {sorted(WRITERS)}", "Correct the config."
            )
        if self.non_finite not in POLICIES:
            found = repr(self.non_finite)
            raise UserError("loop.non_finite", found, f"one of {POLICIES}", "Correct the config.")
        at_least = dict.fromkeys(("eval_every", "save_every", "keep_every", "max_non_finite"), 0)
        at_least |= {"log_every": 1, "keep": 1, "hang_seconds": 0}
        for name, least in at_least.items():
            if getattr(self, name) < least:
                found = f"{getattr(self, name)}"
                raise UserError(f"loop.{name}", found, f"{least} or more", "Change it.")
        for name in ("eval_every", "save_every"):
            if getattr(self, name) % self.log_every:
                raise UserError(
                    f"loop.{name}",
                    f"{getattr(self, name)} beside loop.log_every={self.log_every}",
                    "a multiple of loop.log_every, so that no average is cut by a restart",
                    "Change one of them.",
                )


@runtime_checkable
class Batches(Protocol):
    """An iterator of batches whose place can be saved.

    Attributes:
      metrics: what the host knows of the last batch, such as the realised shares of a mixture.
      documents: names of its documents by uid, those of all processes.
    """

    metrics: Mapping[str, int | float]
    documents: Mapping[int, str]

    def __next__(self) -> Any: ...

    def get_state(self) -> dict: ...

    def set_state(self, state: dict) -> None: ...


Evaluator = Callable[[TrainState, int, Writers], None]


def fit(
    state: TrainState,
    trainer: Trainer,
    batches: Batches,
    steps: int,
    config: LoopConfig,
    run_dir: pathlib.Path,
    description: dict,
    evaluators: dict[str, Evaluator],
    stop_at: int | None = None,
    more_writers: Sequence[Writer] = (),
) -> TrainState:
    """Trains to `steps`, resuming from the newest checkpoint in `run_dir` where there is one.

    Args:
      state: fresh state, placed on the devices; donated.
      batches: of this process's rows.
      description: JSON of the run, which goes into every checkpoint.
      evaluators: called in order, by name.
      stop_at: save and return at this step, to be resumed later.
      more_writers: beside those that the config names.

    Raises:
      UserError: where steps are not finite and the config does not let that pass, or the
        checkpoint there is of another run, or of a later step than this one's last.
      Preempted: on SIGTERM or Ctrl-C, when all is saved.
    """
    end = steps if stop_at is None else min(stop_at, steps)
    with contextlib.ExitStack() as at_end:
        watchdog = at_end.enter_context(Watchdog(run_dir, config.hang_seconds))
        now = _Run(
            state, trainer, batches, steps, config, run_dir, description, evaluators,
            more_writers, watchdog,
        )  # fmt: skip
        del state
        at_end.callback(now.close)
        now.check_not_past(end)
        preemption = at_end.enter_context(Preemption())
        while True:
            asked_to_end = preemption.reached() and now.step != end
            last = now.step == end or asked_to_end
            if last or now.is_due(config.save_every) or now.is_first_to_go_back_to():
                if now.must_roll_back(newest=True):
                    now.roll_back()
                    continue
                now.save(last)
            if now.is_due(config.eval_every):
                now.evaluate()
            if last:
                break
            now.take_step()
            if now.must_roll_back(newest=False):
                now.roll_back()
        if asked_to_end:
            raise preemption.ended(now.step)
    return now.state


@dataclasses.dataclass
class _Run:
    """What a run is made of between two steps. Made, it has resumed where there is a checkpoint.

    Attributes:
      state: after `step` steps.
      The others are those of `fit`.
    """

    state: TrainState
    trainer: Trainer
    batches: Batches
    steps: int
    config: LoopConfig
    run_dir: pathlib.Path
    description: dict
    evaluators: dict[str, Evaluator]
    more_writers: Sequence[Writer]
    watchdog: Watchdog

    def __post_init__(self):
        config = self.config
        self._events = Events(self.run_dir)
        self._whole = base_lib.KEY not in self.description
        self._checkpoints = Checkpoints(self.run_dir, config.keep, config.keep_every, self._whole)
        self._guard = Guard(config.non_finite, config.max_non_finite, self._events)
        self._like = abstract(self.state)
        self._versions = {"optimizers": self.trainer.optimizer_versions}
        saved: dict = {}
        if self._checkpoints.latest() is not None:
            kept = self._kept()
            gone = self.state if kept is None else self.state.replace(frozen={})
            jax.tree.map(lambda x: x.delete(), gone)  # there may not be room for two
            self.state, saved = self._restore(kept)
            self.batches.set_state(saved["data"])
            self._guard.resume(saved.get("guard"))
            if is_lead():
                tqdm.write(f"resumed from step {int(self.state.step)}", file=sys.stderr)
        self.step = int(self.state.step)
        self._saved_step = self.step if saved else -1
        self._open_log(saved)

    def _kept(self) -> Params | None:
        """Of the state, what checkpoints lack."""
        return None if self._whole else self.state.frozen

    def _restore(self, frozen: Params | None) -> tuple[TrainState, dict]:
        def check(saved: dict) -> None:
            changed = check_resumable(str(self.run_dir), saved, self.description | self._versions)
            if changed and is_lead():
                tell = (f"{key} {old!r} -> {new!r}" for key, (old, new) in changed.items())
                print("resuming with changes:", ", ".join(tell), file=sys.stderr)

        def tell(step: int, error: Damaged) -> None:
            message = f"{error.found}; moved to {DAMAGED}/, and the one before it is used"
            self._events.tell("damaged", step, message)

        self.watchdog.beat("restoring a checkpoint")
        return self._checkpoints.restore(self._like, self.trainer.rules, check, tell, frozen)

    def _open_log(self, saved: dict) -> None:
        self._evaluated = Evaluated(self.run_dir, self.step)
        evaluates = self.is_due(self.config.eval_every) and self.step != self._evaluated.step
        names = self.config.writers
        self._writers = Writers(names, self.run_dir, self.step, evaluates, self.more_writers)
        stage, pending = self.description["stage"], saved.get("report")
        self._report = Report(self._writers, stage, self.step, self.steps, pending)

    def check_not_past(self, end: int) -> None:
        """Raises UserError where the checkpoint is of a later step than the run is to end at."""
        if self.step > end:
            raise UserError(
                str(self.run_dir),
                f"a checkpoint of step {self.step}",
                f"one of step {end} at most, where this run is to end",
                "Raise stage.steps or --stop-at, or give another --run-dir.",
            )

    def is_due(self, every: int) -> bool:
        """Whether this step is a multiple, or the last."""
        step = self.step
        return step == self.steps or (every > 0 and step > 0 and step % every == 0)

    def is_first_to_go_back_to(self) -> bool:
        """Whether there is no checkpoint, and there should be."""
        return self.config.non_finite == "roll_back" and self._saved_step == -1

    def take_step(self) -> None:
        self.watchdog.beat(f"drawing the batch of step {self.step + 1}")
        # Put while the devices work on the step before, which nothing here waits for: the step
        # itself moves nothing between host and devices.
        batch = self.trainer.put(next(self.batches))
        self.watchdog.beat(f"training step {self.step + 1}, or one that is still in work")
        with jax.transfer_guard("disallow"):
            self.state, metrics = self.trainer.train_step(self.state, batch)
        self.step += 1
        emit = self.is_due(self.config.log_every)
        self._report.add(self.step, metrics, self.batches.metrics, emit)
        self._guard.add(self.step, metrics, self.batches.documents)

    def must_roll_back(self, newest: bool) -> bool:
        """Judges the steps up to the newest, or the one before it (`train.guard`)."""
        before = self._guard.not_finite
        if self._guard.must_roll_back(leave=0 if newest else 1):
            return True
        if not newest:
            self._report.arrived(applied=self._guard.not_finite == before)
        return False

    def roll_back(self) -> None:
        """To the last checkpoint; the batches go on where they are."""
        self._settle()
        if self._checkpoints.latest() is None:
            raise UserError(
                str(self.run_dir), "no checkpoint to go back to", "one, as loop.non_finite says",
                "See in events.jsonl why none could be saved.",
            )  # fmt: skip
        kept = self._kept()
        self.state = None  # there may not be room for two
        self.state, saved = self._restore(kept)
        self.step = self._saved_step = int(self.state.step)
        self._guard.roll_back(saved.get("guard"))
        self._report.close()
        self._writers.close()
        self._open_log(saved)

    def save(self, last: bool) -> None:
        """The run goes on where it cannot be saved; the last time it tries again for a while."""
        if self.step == self._saved_step:
            return
        self._report.flush()
        with self._report.paused(f"saving step {self.step}"):
            self._save(tries=_LAST_TRIES if last else 1, wait=last)

    def _save(self, tries: int, wait: bool) -> None:
        self._settle()
        more = {"report": self._report.pending(), "guard": self._guard.state()} | self._versions
        for left in reversed(range(tries)):
            self.watchdog.beat(f"saving step {self.step}")
            try:
                self._writers.sync()  # or, the power lost, the log would end before the checkpoint
                data = self.batches.get_state()
                self._checkpoints.save(self.state, self.description | more, data)
                if wait:
                    self._checkpoints.wait()
            except NotSaved as e:
                pause = min(2.0 ** (tries - left - 1), _LAST_PAUSE)
                self._tell_not_saved(e, pause if left else None)
                if left:
                    time.sleep(pause)
                elif wait:
                    raise
            else:
                self._saved_step = self.step
                return

    def _settle(self) -> None:
        """What was saved before is on disk, or told as lost."""
        self.watchdog.beat("waiting for a checkpoint to be written")
        try:
            self._checkpoints.wait()
        except NotSaved as e:
            self._tell_not_saved(e, None)

    def _tell_not_saved(self, error: NotSaved, pause: float | None) -> None:
        """`pause`: seconds until it is tried again; None: it is not."""
        then = "the run goes on without" if pause is None else f"tried again in {pause:g} s"
        kept = self._checkpoints.latest()
        kept = "none is saved" if kept is None else f"the last one is of step {kept}"
        self._events.tell("not_saved", self.step, f"{error.found}; {then}; {kept}")

    def evaluate(self) -> None:
        if self.step == self._evaluated.step:
            return
        self._report.flush()
        with self._report.paused(f"evaluating step {self.step}"):
            for name, evaluator in self.evaluators.items():
                self.watchdog.beat(f"evaluating {name} at step {self.step}")
                evaluator(self.state, self.step, self._writers)
        self._evaluated.finish(self.step)

    def close(self) -> None:
        """Writes what is known and waits for what is being saved."""
        with contextlib.ExitStack() as at_end:
            at_end.callback(self._events.close)
            at_end.callback(self._checkpoints.close)
            at_end.callback(self._writers.close)
            at_end.callback(self._report.close)
            at_end.callback(self._report.flush)


class Evaluated:
    """The step of the last evaluation that was finished: a run may be killed before, or in, one.

    It stands in a file of its own, as saving comes before evaluating.
    """

    def __init__(self, run_dir: pathlib.Path, start: int):
        """A later step than `start` is of a history that is undone."""
        self._path = run_dir / "evaluated"
        step = -1
        if is_lead() and self._path.is_file():
            with contextlib.suppress(ValueError, OSError):  # a disk may have damaged it
                step = int(self._path.read_text()[:10])
        step = int(of_the_lead(np.asarray(step if step < 2**31 else -1, np.int32)))
        self.step = step if step <= start else -1
        if self.step == -1 and is_lead():
            discard(self._path)

    def finish(self, step: int) -> None:
        """On a disk that cannot be written: after a restart it is made a second time."""
        self.step = step
        if is_lead():
            with contextlib.suppress(UserError):
                write_file(self._path, f"{step}\n")


def validation(
    name: str, eval_step: Callable[[TrainState, Any], Metrics], batches: list, put: Callable
) -> Evaluator:
    """An evaluator: every metric over fixed held-out batches, as `name/metric`."""

    def evaluate(state: TrainState, step: int, writers: Writers) -> None:
        total = None
        for batch in batches:
            new = eval_step(state, put(batch))
            total = new if total is None else metrics_lib.add(total, new)
        values = metrics_lib.quotients(total)
        writers.scalars(step, {f"{name}/{k}": v for k, v in values.items()})

    return evaluate


def take(batches: Iterator, n: int) -> list:
    """The first n batches."""
    return [next(batches) for _ in range(n)]

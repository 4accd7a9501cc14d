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
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from unijax.core.errors import Preempted, UserError
from unijax.core.files import atomic_file
from unijax.core.processes import is_lead, of_the_lead
from unijax.core.system import Metrics
from unijax.train import metrics as metrics_lib
from unijax.train.checkpoint import Checkpoints, abstract
from unijax.train.events import Events
from unijax.train.guard import POLICIES, Guard
from unijax.train.preemption import Preemption
from unijax.train.report import Report
from unijax.train.resume import check_resumable
from unijax.train.stage import Rule
from unijax.train.state import TrainState
from unijax.train.writers import WRITERS, Writer, Writers


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """Periods in optimizer steps; 0 means at the end only.

    Attributes:
      log_every: metrics are averages over this many steps.
      eval_every: validation losses and samples.
      save_every: checkpoints.
      keep: number of newest checkpoints that stay.
      writers: some of "jsonl", "tensorboard", "wandb".
      non_finite: what follows a step whose loss or gradient is not finite; it is never applied.
        "stop"; "skip": go on with the next batch; "roll_back": go on from the last checkpoint with
        the data that follows.
      max_non_finite: so many such steps of a run are skipped or undone, then it stops.
    """

    log_every: int = 50
    eval_every: int = 0
    save_every: int = 0
    keep: int = 2
    writers: tuple[str, ...] = ("jsonl", "tensorboard")
    non_finite: str = "stop"
    max_non_finite: int = 10

    def __post_init__(self):
        if unknown := sorted(set(self.writers) - set(WRITERS)):
            raise UserError(
                "loop.writers", f"{unknown}", f"some of {sorted(WRITERS)}", "Correct the config."
            )
        if self.non_finite not in POLICIES:
            found = repr(self.non_finite)
            raise UserError("loop.non_finite", found, f"one of {POLICIES}", "Correct the config.")
        leasts = {"log_every": 1, "eval_every": 0, "save_every": 0, "keep": 1, "max_non_finite": 0}
        for name, least in leasts.items():
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
    train_step: Callable[[TrainState, Any], tuple[TrainState, Metrics]],
    batches: Batches,
    put: Callable[[Any], Any],
    steps: int,
    config: LoopConfig,
    run_dir: pathlib.Path,
    run: dict,
    rules: dict[str, Rule],
    evaluators: dict[str, Evaluator],
    stop_at: int | None = None,
    more_writers: Sequence[Writer] = (),
) -> TrainState:
    """Trains to `steps`, resuming from the newest checkpoint in `run_dir` where there is one.

    Args:
      state: fresh state, placed on the devices.
      train_step: jitted; donates the state.
      batches: of this process's rows.
      put: moves a host batch to the devices.
      run: JSON description that goes into every checkpoint.
      evaluators: called in order, by name.
      stop_at: save and return at this step, to be resumed later.
      more_writers: beside those that the config names.

    Raises:
      UserError: where steps are not finite and the config does not let that pass, or the
        checkpoint there is of another run.
      Preempted: on SIGTERM, when all is saved.
    """
    checkpoints = Checkpoints(run_dir, config.keep)
    events = Events(run_dir)
    guard = Guard(config.non_finite, config.max_non_finite, events)
    like = abstract(state)
    saved: dict = {}
    if checkpoints.latest() is not None:
        changed = check_resumable(str(run_dir), checkpoints.read_run(), run)
        if changed and is_lead():
            tell = (f"{key} {old!r} -> {new!r}" for key, (old, new) in changed.items())
            print("resuming with changes:", ", ".join(tell), file=sys.stderr)
        jax.tree.map(lambda x: x.delete(), state)  # there may not be room for two
        state, saved = checkpoints.restore(like, rules)
        batches.set_state(saved["data"])
        guard.resume(saved.get("guard"))
    step = int(state.step)
    end = steps if stop_at is None else min(stop_at, steps)
    saved_step = step if saved else -1
    evaluated = Evaluated(run_dir, step)

    def due(every: int, step: int) -> bool:
        return step == steps or (every > 0 and step > 0 and step % every == 0)

    def open_log(step: int, saved: dict) -> tuple[Writers, Report]:
        half = due(config.eval_every, step) and step != evaluated.step
        writers = Writers(config.writers, run_dir, step, half, more_writers)
        return writers, Report(writers, run["stage"], step, steps, saved.get("report"))

    writers, report = open_log(step, saved)
    with contextlib.ExitStack() as at_end:
        preemption = at_end.enter_context(Preemption())
        at_end.callback(checkpoints.close)
        at_end.callback(lambda: writers.close())
        at_end.callback(lambda: report.close())
        while True:
            asked_to_end = preemption.reached() and step != end
            save = due(config.save_every, step) or step == end or asked_to_end
            save |= config.non_finite == "roll_back" and saved_step == -1  # there must be one
            undo = save and guard.must_roll_back(leave=0)
            if not undo:
                if save and step != saved_step:
                    report.flush()
                    more = {"report": report.pending(), "guard": guard.state()}
                    checkpoints.save(state, run | more, batches.get_state())
                    saved_step = step
                if due(config.eval_every, step) and step != evaluated.step:
                    report.flush()
                    for evaluator in evaluators.values():
                        evaluator(state, step, writers)
                    evaluated.finish(step)
                    report.restart_clock()
                if step == end or asked_to_end:
                    break
                # Put while the devices work on the step before, which nothing here waits for: the
                # step itself moves nothing between host and devices.
                batch = put(next(batches))
                with jax.transfer_guard("disallow"):
                    state, step_metrics = train_step(state, batch)
                step += 1
                report.add(step, step_metrics, batches.metrics, due(config.log_every, step))
                guard.add(step, step_metrics, batches.documents)
                undo = guard.must_roll_back(leave=1)
            if undo:
                checkpoints.wait()
                del state  # there may not be room for two
                state, saved = checkpoints.restore(like, rules)
                step = saved_step = int(state.step)
                guard.roll_back(saved.get("guard"))
                report.close()
                writers.close()
                evaluated = Evaluated(run_dir, step)
                writers, report = open_log(step, saved)
        report.flush()
        checkpoints.wait()
    if asked_to_end:
        raise Preempted(step)
    return state


class Evaluated:
    """The step of the last evaluation that was finished: a run may be killed before, or in, one.

    It stands in a file of its own, as saving comes before evaluating.
    """

    def __init__(self, run_dir: pathlib.Path, start: int):
        """A later step than `start` is of a history that is undone."""
        self._path = run_dir / "evaluated"
        step = int(self._path.read_text()) if is_lead() and self._path.exists() else -1
        step = int(of_the_lead(np.asarray(step, np.int32)))
        self.step = step if step <= start else -1
        if self.step != step and is_lead():
            self._path.unlink()

    def finish(self, step: int) -> None:
        self.step = step
        if is_lead():
            with atomic_file(self._path) as temporary:
                temporary.write_text(f"{step}\n")


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

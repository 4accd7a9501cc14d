"""The one loop.

Its order is fixed: save if due, evaluate if due, next batch, step, report. Saving comes before
evaluating, so that an evaluation that fails loses nothing; the batch is drawn after the save, so
that the data state that is saved names exactly the batches that were trained on. A run that is
asked to end saves, evaluates if that was due, and ends there.
"""

import contextlib
import dataclasses
import math
import pathlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from tqdm import tqdm

from unijax.core.errors import Preempted, UserError
from unijax.core.processes import is_lead
from unijax.core.system import Metrics
from unijax.train import metrics as metrics_lib
from unijax.train.checkpoint import Checkpoints
from unijax.train.preemption import Preemption
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
    """

    log_every: int = 50
    eval_every: int = 0
    save_every: int = 0
    keep: int = 2
    writers: tuple[str, ...] = ("jsonl", "tensorboard")

    def __post_init__(self):
        if unknown := sorted(set(self.writers) - set(WRITERS)):
            raise UserError(
                "loop.writers", f"{unknown}", f"some of {sorted(WRITERS)}", "Correct the config."
            )
        for name, least in (("log_every", 1), ("eval_every", 0), ("save_every", 0), ("keep", 1)):
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
    """

    metrics: Mapping[str, int | float]

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
      UserError: if a loss is not finite, or the checkpoint there is of another run.
      Preempted: on SIGTERM, when all is saved.
    """
    checkpoints = Checkpoints(run_dir, config.keep)
    saved: dict = {}
    if checkpoints.latest() is not None:
        changed = check_resumable(str(run_dir), checkpoints.read_run(), run)
        if changed and is_lead():
            tell = (f"{key} {old!r} -> {new!r}" for key, (old, new) in changed.items())
            print("resuming with changes:", ", ".join(tell), file=sys.stderr)
        state, saved = checkpoints.restore(state, rules)
        batches.set_state(saved["data"])
    start = int(state.step)
    end = steps if stop_at is None else min(stop_at, steps)
    writers = Writers(config.writers, run_dir, start, more_writers)
    saved_step = evaluated_step = start if start else -1

    def due(every: int, step: int) -> bool:
        return step == steps or (every > 0 and step > 0 and step % every == 0)

    report = _Report(writers, run["stage"], start, steps, saved.get("report"))
    with contextlib.ExitStack() as at_end:
        preemption = at_end.enter_context(Preemption())
        at_end.callback(checkpoints.close)
        at_end.callback(writers.close)
        at_end.callback(report.close)
        for step in range(start, end + 1):
            asked_to_end = preemption.reached(step) and step != end
            save = due(config.save_every, step) or step == end or asked_to_end
            if save and step != saved_step:
                report.flush()
                checkpoints.save(state, run | {"report": report.pending()}, batches.get_state())
            if due(config.eval_every, step) and step != evaluated_step:
                report.flush()
                for evaluator in evaluators.values():
                    evaluator(state, step, writers)
                report.restart_clock()
            if step == end or asked_to_end:
                break
            state, step_metrics = train_step(state, put(next(batches)))
            emit = due(config.log_every, step + 1)
            report.add(step + 1, step_metrics, batches.metrics, emit)
        report.flush()
        checkpoints.wait()
    if asked_to_end:
        raise Preempted(step)
    return state


class _Report:
    """Adds metrics up on the device and writes them a step late, so that the host never waits."""

    def __init__(
        self, writers: Writers, stage: str, start: int, steps: int, pending: dict | None = None
    ):
        """`pending` is what a run that is resumed had added up."""
        self._writers = writers
        self._bar = tqdm(
            total=steps, initial=start, desc=stage, unit="step", dynamic_ncols=True,
            disable=not is_lead(),
        )  # fmt: skip
        pending = pending or {"total": {}, "host": {}, "count": 0}
        total = {name: tuple(map(np.float32, pair)) for name, pair in pending["total"].items()}
        self._total: Metrics | None = total or None
        self._host: Counter[str] = Counter(pending["host"])
        self._count: int = pending["count"]
        self._ready: tuple[int, int, Metrics, Counter[str]] | None = None
        self.restart_clock()

    def pending(self) -> dict:
        """The sums of a period that is not over, as JSON. Floats keep their bits. Waits."""
        total = jax.device_get(self._total or {})
        total = {name: list(map(float, pair)) for name, pair in total.items()}
        return {"total": total, "host": dict(self._host), "count": self._count}

    def restart_clock(self) -> None:
        """Time spent outside of training does not count as step time."""
        self._clock = time.perf_counter()

    def add(self, step: int, metrics: Metrics, host: Mapping[str, int | float], emit: bool) -> None:
        self._host.update(host)
        self._total = metrics if self._total is None else metrics_lib.add(self._total, metrics)
        self._count += 1
        self._bar.update(1)
        self.flush()
        if emit:
            self._ready = (step, self._count, self._total, self._host)
            self._total, self._count, self._host = None, 0, Counter()

    def flush(self) -> None:
        """Writes the period that was closed before the newest step was dispatched."""
        if self._ready is None:
            return
        step, count, total, host = self._ready
        self._ready = None
        values = metrics_lib.quotients(total)
        values |= {f"data/{name}": value / count for name, value in host.items()}
        now = time.perf_counter()
        seconds, self._clock = (now - self._clock) / count, now
        values["seconds_per_step"] = seconds
        if "tokens" in values:
            values["tokens_per_second"] = values["tokens"] / seconds
        # By the pairs that attention sees, and as if every row were one causal document.
        values["model_flops_per_second"] = values["flops"] / seconds
        values["model_flops_per_second_if_causal"] = values["flops_if_causal"] / seconds
        self._writers.scalars(step, values)
        self._bar.set_postfix(loss=f"{values['loss']:.3f}", refresh=False)
        if not math.isfinite(values["loss"]):
            raise UserError(
                f"step {step}",
                f"loss {values['loss']}",
                "a finite loss",
                "Lower the learning rate or inspect the data; the last checkpoint is intact.",
            )

    def close(self) -> None:
        self._bar.close()


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

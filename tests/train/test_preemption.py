"""SIGTERM: saved, told, resumed to the same bits; and the status file on the way."""

import os
import pathlib
import signal
import time

import jax
import pytest

from tests import processes
from tests.logs import lines
from tests.train.test_loop import run, same_bits
from tests.train.toy import ToyBatches, toy_stage
from unijax.core import exit_codes, status
from unijax.core.errors import Interrupted, Preempted, UserError
from unijax.train.status import StatusKeeper


class Asked(ToyBatches):
    """A signal arrives while a batch is drawn."""

    def __init__(self, at: int, number: int = signal.SIGTERM):
        super().__init__()
        self._at, self._number = at, number

    def __next__(self):
        if self._drawn == self._at:
            os.kill(os.getpid(), self._number)
        return super().__next__()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("at", [6, 9])
def test_a_preempted_run_resumes_to_the_bits_and_the_log_of_one_that_was_not(tmp_path, at, number):
    """Step 7 cuts a period of 5 steps: its sums are saved, too. At 10 an evaluation is due."""
    evaluated = []

    def evaluators():
        return {"count": lambda state, step, writers: evaluated.append(step)}

    whole = run(tmp_path / "whole", evaluators=evaluators(), eval_every=10)
    expected, evaluated = evaluated, []
    with pytest.raises(Preempted) as e:
        run(tmp_path / "cut", batches=Asked(at, number), evaluators=evaluators(), eval_every=10)
    assert e.value.step == at + 1
    assert isinstance(e.value, Interrupted) == (number == signal.SIGINT)
    resumed = run(tmp_path / "cut", evaluators=evaluators(), eval_every=10)
    assert same_bits(whole, resumed)
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    assert evaluated == expected == [10, 20]


def test_sigterm_at_the_last_step_is_the_end_of_the_run(tmp_path):
    assert int(run(tmp_path, batches=Asked(19)).step) == 20


def test_sigterm_again_and_again_is_told_as_one(tmp_path):
    """The second fell on what ends a run: its status said "running" for ever."""
    more = ("--run-dir", str(tmp_path), "--steps", "100000")
    (process,) = processes.start(1, "tests.train.toy_process", *more)
    while not (now := status.read(tmp_path)) or now.state != "running":
        assert process.poll() is None
        time.sleep(0.05)
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.01)
    assert process.returncode == exit_codes.PREEMPTED
    assert status.read(tmp_path).state == "preempted"


def test_sigterm_is_as_before_once_training_is_over(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    run(tmp_path, toy_stage(steps=1))
    assert signal.getsignal(signal.SIGTERM) is before


def keep(run_dir: pathlib.Path, **more):
    with StatusKeeper(run_dir, 20) as keeper:
        keeper.finish(int(run(run_dir, keeper=keeper, **more).step))


def test_status_follows_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIJAX_JOB", "40_1")
    seen = []

    def look(state, step, writers):
        jax.block_until_ready(state)
        seen.append(status.read(tmp_path))

    with pytest.raises(Preempted):
        keep(tmp_path, batches=Asked(6), evaluators={"look": look}, eval_every=5)
    assert seen[0].state == "running"
    now = status.read(tmp_path)
    assert (now.state, now.step, now.steps, now.attempt) == ("preempted", 7, 20, 1)
    assert (now.run, now.job) == (tmp_path.name, "40_1")
    keep(tmp_path, stop_at=12)
    assert (status.read(tmp_path).state, status.read(tmp_path).step) == ("stopped", 12)
    keep(tmp_path)
    now = status.read(tmp_path)
    assert (now.state, now.step, now.attempt) == ("done", 20, 3)
    assert now.loss == lines(tmp_path)[-1]["loss"]
    keep(tmp_path)  # nothing is left to do, and what is known stays known
    again = status.read(tmp_path)
    assert again.attempt == 4
    assert again.step_seconds
    for name in ("state", "step", "loss", "tokens_per_second", "goodput", "step_seconds"):
        assert getattr(again, name) == getattr(now, name)


def test_a_mistake_before_the_first_step_leaves_a_finished_run_done(tmp_path):
    """A failed finetune turned the status of a run that was done into "failed"."""
    keep(tmp_path)
    before = status.read(tmp_path)
    with pytest.raises(UserError), StatusKeeper(tmp_path, 50):
        raise UserError("data", "a broken record", "a whole one", "Mend it.")
    now = status.read(tmp_path)
    assert (now.state, now.step, now.steps) == ("done", before.step, before.steps)


def test_ctrl_c_is_no_failure(tmp_path):
    with pytest.raises(Interrupted):
        keep(tmp_path, batches=Asked(6, signal.SIGINT))
    assert (status.read(tmp_path).state, status.read(tmp_path).step) == ("stopped", 7)
    with pytest.raises(KeyboardInterrupt), StatusKeeper(tmp_path, 20):
        raise KeyboardInterrupt
    assert status.read(tmp_path).state == "stopped"


def test_status_tells_what_stopped_a_run(tmp_path):
    with pytest.raises(UserError), StatusKeeper(tmp_path, 20):
        raise UserError("data", "a broken record", "a whole one", "Mend it.")
    now = status.read(tmp_path)
    assert now.state == "failed"
    assert now.message == "data: found a broken record; expected a whole one. Mend it."


def test_small_files_that_a_crash_left_empty_do_not_stop_a_run(tmp_path):
    keep(tmp_path, stop_at=10, save_every=5, eval_every=5)
    for name in ("status.json", "evaluated"):
        assert (tmp_path / name).read_text()
        (tmp_path / name).write_text("")
    keep(tmp_path, save_every=5, eval_every=5)
    assert (status.read(tmp_path).state, status.read(tmp_path).step) == ("done", 20)

"""Pace of a run: goodput, percentiles, MFU, memory, in the log and in the status file."""

import time

import jax
import pytest

from tests.logs import everything
from tests.train.test_loop import run
from tests.train.test_preemption import keep
from tests.train.toy import ToyBatches
from unijax.core import status
from unijax.core.peak import peak_flops
from unijax.train import report
from unijax.train.status import StatusKeeper


class Slow(ToyBatches):
    """Twenty milliseconds a batch, which a step waits for; one may take longer."""

    def __init__(self, slow: int = -1):
        super().__init__()
        self._slow = slow

    def __next__(self):
        time.sleep(0.5 if self._drawn == self._slow else 0.02)
        return super().__next__()


def sleep(state, step, writers):
    time.sleep(0.3)


def test_percentiles_tell_a_slow_step_and_leave_out_what_is_no_training(tmp_path):
    run(tmp_path, batches=Slow(12), evaluators={"sleep": sleep}, eval_every=5)
    last = everything(tmp_path)[-1]
    assert 0.02 <= last["seconds_per_step_p50"] < 0.2
    assert last["seconds_per_step_p99"] > 0.3
    # 19 steps are timed; the first was compiled.
    assert 0.02 * 18 + 0.5 <= last["machine/useful_seconds"] < 3
    assert last["machine/host_memory_gib"] > 0.05
    assert "machine/mfu" not in last  # of a CPU nobody knows


def test_goodput_counts_all_attempts_and_no_step_that_was_lost(tmp_path):
    begun = time.time()
    with pytest.raises(KeyboardInterrupt):
        keep(tmp_path, batches=Killed(16), evaluators={"sleep": sleep}, eval_every=5, save_every=10)
    first = status.read(tmp_path)
    keep(tmp_path, batches=Slow(), evaluators={"sleep": sleep}, eval_every=5, save_every=10)
    now, wall = status.read(tmp_path), time.time() - begun
    assert first.seconds < now.seconds <= wall
    useful = everything(tmp_path)[-1]["machine/useful_seconds"]
    # Steps 2 to 9 of the first attempt and 12 to 19 of the second: 11 to 16 were lost.
    assert 0.02 * 15 <= useful < now.seconds - 4 * 0.3
    assert now.goodput == pytest.approx(useful / now.seconds, rel=0.5)
    assert set(now.step_seconds) == {"p50", "p90", "p99"}
    assert now.memory_gib > 0.05


def test_time_in_which_a_run_was_killed_before_it_had_anything_to_tell_counts(
    tmp_path, monkeypatch
):
    """SIGKILL while it compiles: what the status file holds then is all that is known later."""
    monkeypatch.setattr("unijax.train.status._ALIVE_SECONDS", 0.02)
    with StatusKeeper(tmp_path, 20):
        time.sleep(0.5)
        killed = status.read(tmp_path)
    assert killed.state == "starting"
    assert killed.seconds > 0.3


class Killed(Slow):
    """Ends the run before a batch is drawn."""

    def __init__(self, at: int):
        super().__init__()
        self._at = at

    def __next__(self):
        if self._drawn == self._at:
            raise KeyboardInterrupt
        return super().__next__()


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v5 lite", 197e12), ("TPU v5e", 197e12), ("TPU v5p", 459e12), ("TPU v5", 459e12),
        ("TPU v6 lite", 918e12), ("TPU v6e", 918e12), ("TPU v4", 275e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12), ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989.4e12), ("NVIDIA A100-SXM4-80GB", 312e12), ("cpu", None),
    ],
)  # fmt: skip
def test_peaks_by_the_name_that_jax_gives(kind, peak):
    assert peak_flops(kind) == peak


def test_mfu_is_of_all_devices(monkeypatch):
    monkeypatch.setattr(report, "peak_flops", lambda kind: 1e9)
    found = report.machine({"model_flops_per_second": 5e8}, 1.0)
    assert found["machine/mfu"] == pytest.approx(0.5 / jax.device_count())

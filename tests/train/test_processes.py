"""Two real processes, over TCP: what one process with two devices does, preempted and resumed."""

import shutil

import jax
import numpy as np
import pytest

from tests import processes
from tests.logs import lines
from unijax.core import exit_codes, status, tree
from unijax.core.errors import UserError
from unijax.main import distributed
from unijax.train.checkpoint import read_params, read_run


def run(count: int, *arguments: str) -> list[int]:
    """The exit statuses of processes that train the toy on two CPU devices."""
    return processes.run(count, "tests.train.toy_process", *arguments)


def test_two_processes_preempted_and_resumed_train_as_one_process(tmp_path):
    """Parameters split over the processes (FSDP); one of them gets SIGTERM, both save one step."""
    whole, cut, one = tmp_path / "whole", tmp_path / "cut", tmp_path / "one"
    assert run(1, "--run-dir", str(whole)) == [0]
    assert run(2, "--run-dir", str(cut), "--sigterm-at", "50") == [exit_codes.PREEMPTED] * 2
    now = status.read(cut)
    assert now.state == "preempted"
    assert 50 < now.step < 200
    assert read_run(cut)["step"] == now.step
    shutil.copytree(cut, one)
    assert run(2, "--run-dir", str(cut)) == [0, 0]
    assert run(1, "--run-dir", str(one)) == [0]  # another number of processes goes on, too
    theirs = tree.flatten(read_params(whole))
    for resumed in (cut, one):
        for a, b in zip(lines(resumed), lines(whole), strict=True):
            assert a == pytest.approx(b, rel=1e-5)
        for path, x in tree.flatten(read_params(resumed)).items():
            np.testing.assert_allclose(x, theirs[path], rtol=1e-5, err_msg=path)
        assert (status.read(resumed).state, status.read(resumed).attempt) == ("done", 2)


def test_sigterm_in_an_evaluation_that_follows_a_save_is_heard(tmp_path):
    """Orbax asks for the moment to end, too: by the step, of which the loop knows nothing."""
    more = ("--run-dir", str(tmp_path), "--save-every", "20", "--eval-every", "20")
    codes = run(2, *more, "--sigterm-evaluating", "40")
    assert codes == [exit_codes.PREEMPTED] * 2
    assert 40 <= status.read(tmp_path).step <= 45


def test_processes_that_share_rows_train_as_one_process(tmp_path):
    """Hidden widths are split over the processes: both read all rows, and feed their device."""
    whole, split = tmp_path / "whole", tmp_path / "split"
    assert run(1, "--run-dir", str(whole), "--steps", "20") == [0]
    assert run(2, "--run-dir", str(split), "--steps", "20", "--table", "fsdp_tensor") == [0, 0]
    for a, b in zip(lines(split), lines(whole), strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    theirs = tree.flatten(read_params(whole))
    for path, x in tree.flatten(read_params(split)).items():
        np.testing.assert_allclose(x, theirs[path], rtol=1e-5, err_msg=path)


def test_half_of_the_variables_is_told(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    with pytest.raises(UserError, match=r"JAX_PROCESS_ID=''"):
        distributed.join()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (jax.errors.JaxRuntimeError("UNKNOWN: Gloo context initialization failed"), "node"),
        (jax.errors.JaxRuntimeError("UNAVAILABLE: Socket closed"), "node"),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "bug"),
        (jax.errors.JaxRuntimeError("INVALID_ARGUMENT: a connection of shape [3]"), "bug"),
        (jax.errors.JaxRuntimeError("INTERNAL: CUDA_ERROR_ECC_UNCORRECTABLE"), "node"),
        (jax.errors.JaxRuntimeError("DATA_LOSS: HBM"), "node"),
        (ValueError("connection"), "bug"),
    ],
)
def test_a_lost_peer_is_told_from_a_bug(error, expected):
    assert exit_codes.failure(distributed.status_of(error)) == expected

"""Two real processes that train the small Janus by the command line, without an engine."""

import pathlib
import signal
import time

import numpy as np
import pytest

from tests import processes
from tests.logs import events, lines
from tests.slurm.runs import NOT_ASKED, SHORT, TINY
from tests.train.test_processes import run as run_toy
from unijax.core import exit_codes, status, tree
from unijax.train.checkpoint import read_params, read_run

pytestmark = NOT_ASKED


def start(count: int, run_dir: pathlib.Path, *more: str) -> list:
    """The processes of one run on CPU."""
    arguments = ("train", "--config", str(TINY), "--run-dir", str(run_dir), *more)
    return processes.start(count, "unijax.main.cli", *arguments)


@pytest.mark.parametrize("split", [(), ("mesh.data=1", "mesh.fsdp=-1", "mesh.table=fsdp")])
def test_two_processes_train_draw_and_answer_as_one_with_two_devices(tmp_path, split):
    more = ("stage.steps=4", "loop.eval_every=4", "loop.log_every=2", *split)
    for name, count in (("two", 2), ("one", 1)):
        assert processes.ended(start(count, tmp_path / name, *more), 900) == [0] * count
    two, one = lines(tmp_path / "two"), lines(tmp_path / "one")
    for ours, theirs in zip(two, one, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            if name != "texts":
                assert value == pytest.approx(theirs[name], rel=1e-5), name
    assert len(list((tmp_path / "two" / "samples").iterdir())) == 1


def test_a_process_that_dies_does_not_leave_the_other_waiting(tmp_path):
    running = start(2, tmp_path, *SHORT, "stage.steps=100000")
    while (now := status.read(tmp_path)) is None or now.step < 2:
        assert all(process.poll() is None for process in running)
        time.sleep(0.1)
    running[1].kill()
    begun = time.time()
    code, killed = processes.ended(running, 300)
    assert killed == -signal.SIGKILL
    assert exit_codes.failure(code if code > 0 else 128 - code) == "node"
    assert time.time() - begun < 150


def test_a_hang_of_one_process_ends_both_and_is_told_by_stack(tmp_path):
    """The first process waits for the second, which waits for a batch that never comes."""
    codes = run_toy(2, "--run-dir", str(tmp_path), "--hang-at", "30", "--hang-seconds", "15")
    assert exit_codes.HUNG in codes
    assert all(exit_codes.failure(code) == "node" for code in codes if code > 0)
    told = (tmp_path / "hang-1.txt").read_text()
    assert told.startswith("process 1 has not gone on for 15 s while drawing the batch of step 31")
    assert "in _wait_for_nothing" in told


def test_two_processes_roll_back_together(tmp_path):
    """A value that is not finite stands in the rows of one of them."""
    more = ("--save-every", "20", "--steps", "100", "--bad-at", "50", "--non-finite", "roll_back")
    for count in (1, 2):
        assert run_toy(count, "--run-dir", str(tmp_path / f"{count}"), *more) == [0] * count
        (event,) = [e for e in events(tmp_path / f"{count}") if e["event"] != "spike"]
        assert (event["event"], event["step"], event["action"]) == ("not_finite", 51, "roll_back")
    for ours, theirs in zip(*(lines(tmp_path / name) for name in "21"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    two, one = (tree.flatten(read_params(tmp_path / name)) for name in "21")
    for path, x in two.items():
        np.testing.assert_allclose(x, one[path], rtol=1e-5, err_msg=path)
    assert status.read(tmp_path / "2").state == "done"


@pytest.mark.parametrize("where", ["params", "run", "one process"])
def test_two_processes_agree_on_a_checkpoint_that_is_damaged(tmp_path, where):
    more = ("--run-dir", str(tmp_path), "--save-every", "20")
    assert run_toy(2, *more, "--sigterm-at", "45") == [exit_codes.PREEMPTED] * 2
    newest = max((tmp_path / "checkpoints").iterdir(), key=lambda path: int(path.name))
    # Of a process alone, all files are whole.
    for file in (newest / where).rglob("d/*" if where == "params" else "metadata"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    alone = ("--last-cannot-read",) * (where == "one process")
    assert run_toy(2, *more, *alone) == [0, 0]
    (event,) = [event for event in events(tmp_path) if event["event"] != "spike"]
    assert (event["event"], event["step"]) == ("damaged", int(newest.name))
    assert status.read(tmp_path).state == "done"


def test_a_disk_that_one_process_loses_ends_both_and_the_same_command_goes_on(tmp_path):
    more = ("--run-dir", str(tmp_path), "--save-every", "20", "--steps", "100")
    codes = run_toy(2, *more, "--last-cannot-write")
    assert exit_codes.UNWRITABLE in codes
    assert all(exit_codes.failure(code) == "node" for code in codes if code > 0)
    assert 20 <= read_run(tmp_path)["step"] <= 60
    assert run_toy(2, *more) == [0, 0]
    assert status.read(tmp_path).state == "done"

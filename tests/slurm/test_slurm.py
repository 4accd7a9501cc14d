"""SLURM for real: `make slurm-test`. Sweeps of two runs of two processes each, on one node: of the
smallest system, in a minute or two, and of the small Janus.

The first run is left alone. The second is queued again by its owner, by a job of higher priority
and by its time limit, and must end with the bits of the first.
"""

import pathlib
import subprocess
import sys
import time

import pytest

from tests.logs import lines
from tests.slurm.cluster import Cluster, missing
from tests.slurm.runs import NOT_ASKED, SHORT, TINY, same_bits
from unijax.core import status
from unijax.launch import engines
from unijax.main.launching import load

pytestmark = NOT_ASKED
# What a launch file says of each.
PROGRAMS = {
    "toy": """\
command: python -m tests.train.toy_process --steps 4000 --pause 0.02
""",
    "janus": f"""\
command: unijax train --config {TINY}
overrides: [{", ".join(SHORT)}, stage.steps=1500, loop.log_every=5, loop.eval_every=500]
""",
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if missing():
        pytest.fail(f"no {missing()}: apt-get install slurm-wlm munge")
    with Cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture
def launch_file(tmp_path, program) -> pathlib.Path:
    path = tmp_path / "launch.yaml"
    path.write_text(f"""\
{PROGRAMS[program]}
name: test
directory: {tmp_path}/runs
runs: {{whole: [], cut: []}}
machines: {{processes: 2, cpus: 1}}
workdir: {pathlib.Path.cwd()}
setup: export PATH={pathlib.Path(sys.executable).parent}:$PATH
env: {{JAX_PLATFORMS: cpu}}
slurm: {{hours: 1, warning_seconds: 60}}
""")
    return path


def unijax(cluster: Cluster, *argv: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "unijax.main.cli", *argv],
        env=cluster.environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def until(what: str, there, seconds: float = 1800) -> None:
    print(f"waiting until {what}", flush=True)
    end = time.time() + seconds
    while not there():
        assert time.time() < end, f"not in time: {what}"
        time.sleep(0.1)


@pytest.mark.parametrize("program", PROGRAMS)
def test_sbatch_takes_the_rendered_script(cluster, launch_file, tmp_path):
    script = tmp_path / "job.sbatch"
    script.write_text(engines.render(load(str(launch_file)), "slurm")["job.sbatch"])
    done = subprocess.run(
        ["sbatch", "--test-only", str(script)],
        env=cluster.environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "to start at" in done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_run_that_is_preempted_three_times_ends_as_one_that_is_not(
    cluster, launch_file, tmp_path
):
    said = unijax(cluster, "launch", str(launch_file), "--engine", "slurm")
    job = said.split()[-1]
    directory, second = tmp_path / "runs", f"{job}_1"
    whole, cut = directory / "whole", directory / "cut"

    def state() -> str:
        return cluster.call("squeue", "-h", "-j", second, "-o", "%T")

    def trains(attempt: int, further_than: int) -> bool:
        now = status.read(cut)
        return now is not None and now.attempt == attempt and now.step > further_than

    def preempted(attempt: int) -> int:
        """The step that was saved, once the job waits again."""
        until("it has saved", lambda: status.read(cut).state == "preempted")
        assert status.read(cut).attempt == attempt
        step = status.read(cut).step
        until("it is queued again", lambda: state() == "PENDING")
        return step

    def go_on(attempt: int, step: int) -> None:
        # SLURM lets a job wait for two minutes after it was queued again; one that starts in the
        # second in which it was stopped it takes for the stopped one, and drops.
        time.sleep(2)
        cluster.call("scontrol", "update", f"jobid={second}", "StartTime=now")

        def goes_on() -> bool:
            if trains(attempt, step):
                return True
            assert state(), "SLURM has dropped the job"
            return False

        until(f"attempt {attempt} trains on from step {step}", goes_on)

    until("the second run trains", lambda: trains(1, 0))
    assert "running" in unijax(cluster, "status", str(directory))
    cluster.call("scontrol", "requeue", second)
    step = preempted(1)
    go_on(2, step)

    argv = ("--parsable", "--partition=high", "--ntasks=2", "--wrap=sleep 5", "--output=/dev/null")
    high = cluster.call("sbatch", *argv)
    step = preempted(2)
    until("the job of higher priority is done",
          lambda: not cluster.call("squeue", "-h", "-j", high, "-t", "R,PD"))  # fmt: skip
    go_on(3, step)

    minutes = int(cluster.call("squeue", "-h", "-j", second, "-o", "%M").split(":")[-2]) + 2
    cluster.call("scontrol", "update", f"jobid={second}", f"TimeLimit={minutes}")
    step = preempted(3)
    cluster.call("scontrol", "update", f"jobid={second}", "TimeLimit=60")
    go_on(4, step)
    until("all is done", lambda: not cluster.call("squeue", "-h", "-j", job))

    print((cut / "attempts.txt").read_text(), unijax(cluster, "status", str(directory)), sep="\n")
    for run, attempts in ((whole, 1), (cut, 4)):
        now = status.read(run)
        assert (now.state, now.step, now.attempt) == ("done", now.steps, attempts)
    assert status.read(cut).job == second
    assert lines(cut) == lines(whole)
    same_bits(cut, whole)


@pytest.mark.parametrize("program", ["toy"])
def test_a_cancelled_run_stays_cancelled(cluster, launch_file, tmp_path):
    said = unijax(cluster, "launch", str(launch_file), "--engine", "slurm")
    first = f"{said.split()[-1]}_0"
    place = tmp_path / "runs" / "whole"
    until("it trains", lambda: (now := status.read(place)) is not None and now.step > 0)
    cluster.call("scancel", said.split()[-1])
    until("it is gone", lambda: not cluster.call("squeue", "-h", "-j", first))
    assert status.read(place).state == "preempted"
    time.sleep(5)
    assert not cluster.call("squeue", "-h", "-j", first)

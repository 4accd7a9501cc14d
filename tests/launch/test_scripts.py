"""The rendered scripts, run for real: processes on this machine, and SLURM's programs played."""

import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unijax.core import exit_codes
from unijax.launch import engines
from unijax.launch.shell import CLASSIFY
from unijax.main.launching import build_launch

PRINTS = """\
import os, signal, sys, time
place = sys.argv[sys.argv.index("--run-dir") + 1]
index = os.environ.get("JAX_PROCESS_ID", "0")
names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "UNIJAX_JOB", "ASKED")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(85))
with open(f"{place}/ran-{index}", "w") as f:
    print(*(os.environ.get(n) for n in names), file=f)
if "wait=true" in sys.argv:
    time.sleep(60)
sys.exit({"0": 0, "1": 3}[index] if "fail=true" in sys.argv else 0)
"""


@pytest.fixture
def program(tmp_path) -> str:
    path = tmp_path / "program.py"
    path.write_text(PRINTS)
    return f"{sys.executable} {path}"


def local(tmp_path, program, **more) -> pathlib.Path:
    values = {
        "name": "test", "command": program, "directory": str(tmp_path / "runs"),
        "machines": {"processes": 2}, "env": {"ASKED": "it's"},
    } | more  # fmt: skip
    script = tmp_path / "local.sh"
    script.write_text(engines.render(build_launch(values), "local")["local.sh"])
    return script


def test_local_starts_every_process_of_every_run_and_tells_the_first_failure(tmp_path, program):
    script = local(tmp_path, program, runs={"good": [], "bad": ["fail=true"], "last": []})
    assert subprocess.run(["bash", script]).returncode == 3
    for i, name in enumerate(("good", "bad", "last")):
        said = [(tmp_path / "runs" / name / f"ran-{p}").read_text().split() for p in (0, 1)]
        assert said[0] == said[1]
        address, count, job, asked = said[0]
        assert address.startswith("127.0.0.1:")
        assert (count, job, asked) == ("2", f"test-{i}", "it's")


def test_local_hands_sigterm_on_waits_and_starts_no_further_run(tmp_path, program):
    script = local(tmp_path, program, runs={"long": ["wait=true"], "never": []})
    running = subprocess.Popen(["bash", script])
    both = [tmp_path / "runs" / "long" / f"ran-{p}" for p in (0, 1)]
    for _ in range(200):
        if all(path.exists() and path.read_text() for path in both):
            break
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    assert running.wait(20) == exit_codes.PREEMPTED
    assert not (tmp_path / "runs" / "never").exists()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 255), max_size=4))
def test_the_shell_tells_classes_as_the_exit_codes_do(codes):
    script = f'{CLASSIFY}\nfailure <(printf "%s\\n" {" ".join(map(str, codes))})'
    said = subprocess.run(["bash", "-c", script], capture_output=True, text=True).stdout.strip()
    failed = [code for code in codes if code]
    assert said == (exit_codes.failure(min(failed)) if failed else "node")


PLAYED = {
    # The codes that the tasks end with, one run of the job after the other.
    "srun": """\
#!/bin/bash
while [[ "$1" == --* ]]; do shift; done
turn=$(cat "$PLAY/turn")
worst=0
for code in $(sed -n "${turn}p" "$PLAY/codes"); do
    "${@:1:5}" bash -c "exit $code"; got=$?
    [ "$got" -gt "$worst" ] && worst=$got
done
echo $((turn + 1)) > "$PLAY/turn"
exit $worst
""",
    "squeue": '#!/bin/bash\ncat "$PLAY/state"\n',
    "scontrol": '#!/bin/bash\necho "$@" >> "$PLAY/asked"\n',
}


def test_a_directory_with_a_space_is_one_word_for_slurm(tmp_path):
    """sbatch splits directives at spaces outside of quotes, and refuses what it does not know."""
    values = {"name": "test", "command": "true", "directory": str(tmp_path / "my runs")}
    text = engines.render(build_launch(values), "slurm")["job.sbatch"]
    directives = [x.removeprefix("#SBATCH ") for x in text.splitlines() if x.startswith("#SBATCH")]
    words = [shlex.split(directive) for directive in directives]
    assert all(len(found) == 1 for found in words)
    assert [f"--output={tmp_path}/my runs/launch/%j.out"] in words


def play(tmp_path, codes: list[str], state: str = "RUNNING", array: bool = True, **retry):
    """Runs a job script once for each line of codes; what was asked of scontrol, and the ends."""
    programs, folder = tmp_path / "bin", tmp_path / "play"
    for place in (programs, folder):
        place.mkdir(exist_ok=True)
    for name, text in PLAYED.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (folder / "codes").write_text("\n".join(codes) + "\n")
    (folder / "turn").write_text("1\n")
    (folder / "state").write_text(f"{state}\n")
    (folder / "asked").write_text("")
    values = {
        "name": "test", "command": "true", "directory": str(tmp_path / "runs"),
        "runs": {"a": [], "b": []} if array else {}, "retry": retry,
    }  # fmt: skip
    script = tmp_path / "job.sbatch"
    script.write_text(engines.render(build_launch(values), "slurm")["job.sbatch"])
    environment = os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}", "PLAY": str(folder), "SLURM_JOB_ID": "41",
    }  # fmt: skip
    if array:
        environment |= {"SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "1"}
    ends = [subprocess.run(["bash", script], env=environment).returncode for _ in codes]
    return (folder / "asked").read_text().splitlines(), ends


def test_slurm_queues_a_preempted_task_of_an_array_again_by_its_name(tmp_path):
    asked, ends = play(tmp_path, ["85 85", "85 143", "0 0"])
    assert asked == ["requeue 40_1", "requeue 40_1"]
    assert ends == [85, 143, 0]
    history = (tmp_path / "runs" / "b" / "attempts.txt").read_text().splitlines()
    assert [line.split()[1:] for line in history] == [
        ["job", "40_1", "exit", "85", "preempted"], ["job", "40_1", "exit", "143", "preempted"],
    ]  # fmt: skip
    assert not list((tmp_path / "runs" / "b").glob(".codes*"))


def test_slurm_counts_each_class_by_itself(tmp_path):
    asked, _ = play(tmp_path, ["134 86", "1 134", "137", "1"], array=False, node=2, bug=1)
    assert asked == ["requeue 41"] * 3  # two of the node, one of the bug; the second bug is not


def test_slurm_does_not_count_what_another_submission_used_up(tmp_path):
    run = tmp_path / "runs" / "run"
    run.mkdir(parents=True)
    before = [f"2026-01-01T00:00:00+00:00 job {job} exit 134 node\n" for job in (4, 7, 410)]
    (run / "attempts.txt").write_text("".join(before))
    assert play(tmp_path, ["134", "134"], array=False, node=1)[0] == ["requeue 41"]


@pytest.mark.parametrize("codes", ["1 134", "2 2"])
def test_slurm_tries_neither_a_bug_nor_a_mistake_again(tmp_path, codes):
    assert play(tmp_path, [codes], array=False)[0] == []


def test_slurm_leaves_a_job_alone_that_is_cancelled_or_queued_again_already(tmp_path):
    assert play(tmp_path, ["85"], state="COMPLETING")[0] == []


@pytest.mark.parametrize("existing", ["", "SUSPENDED", "ACTIVE"])
def test_tpu_asks_for_what_is_not_there(tmp_path, existing):
    values = {
        "name": "test", "command": "true", "directory": "/data", "machines": {"tpu": "v5e:4x4"},
        "tpu": {"project": "p", "zone": "z", "runtime": "r"},
    }  # fmt: skip
    for name, text in engines.render(build_launch(values), "tpu").items():
        (tmp_path / name).write_text(text)
    gcloud = tmp_path / "gcloud"
    found = f"echo {existing}" if existing else "exit 1"
    gcloud.write_text(f'#!/bin/bash\necho "$4" >> {tmp_path}/asked\n'
                      f'[ "$4" != describe ] || {found}\n')  # fmt: skip
    gcloud.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["bash", tmp_path / "submit.sh"], env=environment, check=True)
    asked = (tmp_path / "asked").read_text().split()
    expected = {"": ["create"], "SUSPENDED": ["delete", "create"], "ACTIVE": []}[existing]
    assert asked == ["describe", *expected]

"""How a command ends that is interrupted, or for which a machine has too little."""

import errno
import signal
import subprocess
import sys

import pytest

from tests.main.test_cli import TINY, fails
from unijax.core import exit_codes
from unijax.main import verbs

# A command that writes for a moment when it is interrupted.
PROGRAM = """
import sys, time
from unijax.main import cli, verbs

def train_(args):
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        print("ending", flush=True)
        end = time.monotonic() + float(sys.argv[1])
        while time.monotonic() < end:
            time.sleep(0.01)
        print("written", flush=True)

verbs.train_ = train_
sys.exit(cli.main(["train", "--config", "c", "--run-dir", "r"]))
"""


def interrupted(seconds: float, times: int) -> tuple[int, str, str]:
    """Status and words of a command that gets SIGINT so often, and takes so long to end."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(seconds)], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "ending\n"
    said = ""
    for _ in range(times - 1):
        process.send_signal(signal.SIGINT)
        said += process.stderr.readline() + process.stderr.readline()
    out, more = process.communicate(timeout=60)
    return process.returncode, out, said + more


def test_ctrl_c_twice_ends_as_once_and_is_no_traceback():
    status, out, said = interrupted(1.5, 2)
    assert (status, out) == (exit_codes.INTERRUPTED, "written\n")
    assert "Once more ends at once" in said
    assert "the last checkpoint is intact" in said
    assert "Traceback" not in said


def test_ctrl_c_thrice_ends_at_once():
    status, out, said = interrupted(60, 3)
    assert (status, out) == (exit_codes.INTERRUPTED, "")
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "this machine's memory: found none left"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "this machine's memory"),
        (ImportError("lib.so: failed to map segment from shared object"), "this machine's memory"),
        (RuntimeError("can't start new thread"), "this machine's threads"),
        (OSError(errno.EMFILE, "Too many open files", "x"), "this machine's open files"),
        (OSError(errno.ENFILE, "Too many open files in system", "x"), "(ulimit -n)"),
    ],
)
def test_a_limit_of_the_machine_is_told_by_name(capsys, monkeypatch, error, said):
    def fail(args):
        raise error

    monkeypatch.setattr(verbs, "train_", fail)
    assert said in fails(capsys, "train", "--config", TINY, "--run-dir", "r")


def test_too_few_open_files_are_told_where_they_run_out(tmp_path):
    """By the limit itself."""
    program = """
import os, resource, sys
from unijax.main import cli
import unijax.main.launch_verbs, launch.table

few = len(os.listdir("/proc/self/fd")) - 1
resource.setrlimit(resource.RLIMIT_NOFILE, (few, few))
sys.exit(cli.main(["status", sys.argv[1]]))
"""
    (tmp_path / "status.json").write_text("{}")
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == exit_codes.MISTAKE
    assert "Too many open files" in done.stderr or "open files: found none left" in done.stderr
    assert "Traceback" not in done.stderr

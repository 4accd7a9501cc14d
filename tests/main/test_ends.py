"""How a command ends that is interrupted, or for which a machine has too little."""

import errno
import signal
import subprocess
import sys
import time

import pytest

from tests.main.test_cli import TINY, fails
from unijax.core import exit_codes, status
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
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.01)
        print("written", flush=True)

verbs.train_ = train_
sys.argv[1:], seconds = ["train", "--config", "c", "--run-dir", "r"], float(sys.argv[1])
cli.command()
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
    for _ in range(times - 1):
        process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=60)
    return process.returncode, out, said


def test_ctrl_c_ends_what_is_being_written_and_is_no_traceback():
    status, out, said = interrupted(0.5, 1)
    assert (status, out, said) == (exit_codes.INTERRUPTED, "written\n", "interrupted\n")


def test_ctrl_c_twice_ends_at_once():
    status, out, said = interrupted(60, 2)
    assert (status, out, said) == (exit_codes.INTERRUPTED, "", "interrupted\n")


def test_ctrl_c_that_python_drops_is_told_again():
    """It came in a callback of the garbage collector: a traceback, and the command went on."""
    slow = (
        "class Slow:\n    def __del__(self):\n        print('begun', flush=True); time.sleep(60)\n"
    )
    program = slow + PROGRAM.replace('print("begun", flush=True)', "Slow()")
    process = subprocess.Popen(
        [sys.executable, "-c", program, "0"], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=30)
    assert (process.returncode, out, said) == (
        exit_codes.INTERRUPTED, "ending\nwritten\n", "interrupted\n",
    )  # fmt: skip


def test_sigterm_while_a_run_is_made_ready_is_told(tmp_path):
    """Its status said "starting" for ever, and schedulers saw a crash."""
    program = """
import sys, time
from unijax.main import cli, train

def slow(*args):
    print("begun", flush=True)
    time.sleep(60)

train._train = slow
cli.command()
"""
    run_dir = tmp_path / "run"
    (run_dir / "checkpoints" / "20").mkdir(parents=True)
    (run_dir / "checkpoints" / "20" / "_CHECKPOINT_METADATA").touch()
    process = subprocess.Popen(
        [sys.executable, "-c", program, "train", "--config", TINY, "--run-dir", str(run_dir)],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.readline() == "begun\n"
    assert status.read(run_dir).state == "starting"
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.01)
    said = process.stderr.read()
    assert "preempted; saved step 20. The same command resumes" in said
    assert "Traceback" not in said
    assert process.returncode == exit_codes.PREEMPTED
    assert (status.read(run_dir).state, status.read(run_dir).step) == ("preempted", 20)


def test_a_reader_that_is_gone_is_no_traceback():
    """`unijax show | head` ended with a BrokenPipeError."""
    command = [sys.executable, "-m", "unijax.main.cli", "show", "--config", TINY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == exit_codes.UNREAD


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
import unijax.main.launch_verbs, unijax.launch.table

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

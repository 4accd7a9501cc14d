"""SIGKILL and a loss of power in a save: see `kills`."""

import subprocess
import sys


def test_what_is_listed_after_a_kill_is_whole(tmp_path):
    """A checkpoint that was being removed was listed, half of its files gone.

    One kill here, while the first checkpoint is removed; `make faults` strikes at every call.
    """
    calls = ["--calls", "unlink", "--within", "checkpoints/.1.", "--first", "5", "--most", "1"]
    command = [sys.executable, "-m", "tests.faults.kills", str(tmp_path / "f"), *calls]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert "1 kills; 0 before the first checkpoint" in done.stdout

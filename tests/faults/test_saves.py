"""Saves while calls of the file system fail: see `saves`."""

import pytest

from tests.faults.shim import start


@pytest.mark.parametrize("calls", ["open write close", "mkdir rename fsync stat opendir unlink"])
def test_one_error_of_the_file_system_costs_a_save_at_most(tmp_path, calls):
    """78 of 323 single errors, such as EINTR, EMFILE and ETIMEDOUT, were tracebacks.

    Every 120th call is struck here; `make faults` strikes them all.
    """
    every = ["--every", "120"]
    process = start("-m", "tests.faults.saves", str(tmp_path), *every, "--calls", *calls.split())
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said[-3000:]
    assert "Traceback" not in said, said[-3000:]
    assert " errors: " in said

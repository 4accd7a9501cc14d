"""A process that does not go on ends itself, and says where it stood."""

import os
import time

import pytest

from tests.train.test_processes import run
from unijax.core import exit_codes
from unijax.train.watchdog import Watchdog


def test_a_process_that_hangs_ends_and_tells_its_stacks(tmp_path):
    """It waits for a batch that never comes."""
    codes = run(1, "--run-dir", str(tmp_path), "--hang-at", "30", "--hang-seconds", "8")
    assert codes == [exit_codes.HUNG]
    told = (tmp_path / "hang-0.txt").read_text()
    assert told.startswith("process 0 has not gone on for 8 s while drawing the batch of step 31")
    assert "in _wait_for_nothing" in told


def test_beats_keep_a_process_alive_and_leaving_ends_the_watch(tmp_path, monkeypatch):
    ended = []
    monkeypatch.setattr(Watchdog, "_end", lambda self: ended.append(self._doing))
    with Watchdog(tmp_path, 0.4) as watchdog:
        for _ in range(15):
            time.sleep(0.05)
            watchdog.beat("working")
        assert ended == []
        watchdog.beat("sleeping")
        until = time.time() + 20
        while not ended and time.time() < until:
            time.sleep(0.05)
        assert set(ended) == {"sleeping"}
    watchdog._thread.join(5)
    assert not watchdog._thread.is_alive()


@pytest.mark.parametrize("code", [exit_codes.HUNG, exit_codes.PEER_LOST])
def test_a_hang_is_a_failure_of_a_node(code):
    assert exit_codes.failure(code) == "node"


def test_the_stacks_of_the_process_that_hangs_are_told_though_another_fires_first(tmp_path):
    """The one that waited fired, ended, and took the one to blame with it before it had written."""
    codes = run(2, "--run-dir", str(tmp_path), "--hang-at", "30", "--hang-seconds", "20")
    assert codes == [exit_codes.HUNG] * 2
    assert "in _wait_for_nothing" in (tmp_path / "hang-1.txt").read_text()
    assert "process 0" in (tmp_path / "hang-0.txt").read_text()


def test_the_file_of_stacks_is_not_written_through_a_link(tmp_path, monkeypatch):
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "hang-0.txt").symlink_to(tmp_path / "mine.txt")
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    Watchdog(tmp_path, 1.0)._end()
    assert ended == [exit_codes.HUNG]
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert "its threads" in (tmp_path / "hang-0.txt").read_text()

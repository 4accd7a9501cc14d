"""Files that are whole or not there."""

import errno
import os
import pathlib
import resource
import signal

import pytest

from unijax.core.errors import Unwritable, UserError
from unijax.core.files import (
    Appended,
    atomic_directory,
    atomic_file,
    patiently,
    read_plain,
    writable_directory,
)


def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_file(path) as temporary:
        temporary.write_text("all of it")
        assert not path.exists()
    assert path.read_text() == "all of it"
    assert os.listdir(path.parent) == ["a.txt"]


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")

    def fail():
        with atomic_file(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path):
    path = tmp_path / "a.txt"
    told = r"a\.txt.*No space left on device.*free space"
    with pytest.raises(Unwritable, match=told), atomic_file(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert os.listdir(tmp_path) == []


def test_files_and_directories_have_the_modes_that_the_user_asked_for(tmp_path):
    """They once had the modes of temporary files, which nobody else may read."""
    with atomic_file(tmp_path / "ours") as temporary:
        temporary.write_text("")
    (tmp_path / "plain").write_text("")
    with atomic_directory(tmp_path / "our_directory"):
        pass
    (tmp_path / "plain_directory").mkdir()
    for ours, plain in (("ours", "plain"), ("our_directory", "plain_directory")):
        assert (tmp_path / ours).stat().st_mode == (tmp_path / plain).stat().st_mode


def test_a_directory_appears_whole_and_only_where_nothing_is(tmp_path):
    path = tmp_path / "out"
    with atomic_directory(path) as temporary:
        (temporary / "a").write_text("a")
        assert not path.exists()
    assert os.listdir(path) == ["a"]
    with pytest.raises(UserError, match="exists already"), atomic_directory(path):
        pass
    assert os.listdir(path) == ["a"]


def test_a_place_that_cannot_be_a_directory_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="cannot be written"):
            writable_directory(path)
        told = r"cannot be written|exists already"
        with pytest.raises(UserError, match=told), atomic_directory(pathlib.Path(path)):
            pass


def test_an_error_inside_a_new_directory_names_what_it_would_have_been(tmp_path):
    path = tmp_path / "run"

    def fail():
        with atomic_directory(path) as temporary:
            raise UserError(
                str(temporary / "checkpoints"), "no room", "some", f"Clear {temporary}."
            )

    with pytest.raises(UserError) as e:
        fail()
    told = f"{path}/checkpoints: found no room; expected some. Clear {path}."
    assert str(e.value) == told
    assert os.listdir(tmp_path) == []


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no plain file"):
        read_plain(tmp_path / "pipe")
    with pytest.raises(OSError, match="no plain file"):
        Appended(tmp_path / "pipe").write(b"a line")


def test_lines_that_a_disk_did_not_take_are_written_with_the_next_or_in_the_end(tmp_path):
    """The last failed write of a log was dropped when it was closed."""
    log = Appended(tmp_path / "log")
    log.write(b"1")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3, limit[1]))  # no room for more
        for line in (b"2", b"3"):
            with pytest.raises(OSError, match="too large"):
                log.write(line)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    log.close()
    assert (tmp_path / "log").read_bytes() == b"1\n2\n3\n"


def test_a_call_that_a_share_refuses_for_a_moment_is_made_again():
    left = [errno.EINTR, errno.ETIMEDOUT, errno.EREMOTEIO]

    def call(value):
        if left:
            raise OSError(left.pop(), "for a moment")
        return value

    assert patiently(call, 7) == 7

    def refuse():
        raise OSError(errno.ENOSPC, "for long")

    with pytest.raises(OSError, match="for long"):
        patiently(refuse)


def test_an_empty_directory_that_becomes_another_keeps_its_mode(tmp_path):
    path = tmp_path / "out"
    path.mkdir(mode=0o700)
    with atomic_directory(path) as temporary:
        (temporary / "a").write_text("a")
    assert path.stat().st_mode & 0o777 == 0o700

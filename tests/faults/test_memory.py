"""Memory of many saves: see `memory`, which `make faults` calls for 400."""

import re
import subprocess
import sys

import tensorstore

from unijax.train.tensorstore_json import _Spec


def test_objects_of_a_save_are_freed(tmp_path):
    """Tensorstore keeps each JSON that it hands out: 800 objects a save of the toy."""
    command = ["-m", "tests.faults.memory", str(tmp_path), "--first", "10", "--saves", "25"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    blocks = float(re.match(r"(-?[\d.]+) blocks", done.stdout)[1])
    assert blocks < 100, done.stdout


def test_the_spec_of_a_folder_is_what_tensorstore_says_itself():
    for spec in (
        {"driver": "file", "path": "/a/b/"},
        {"driver": "file", "path": "/c/", "file_io_locking": {"mode": "none"}},
    ):
        assert _Spec(spec).to_json() == tensorstore.KvStore.Spec(spec).to_json()

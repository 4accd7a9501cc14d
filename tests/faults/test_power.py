"""A machine that loses its power: what was not synced is gone."""

import os
import subprocess
import sys

from tests.faults.shim import build

# Writes a checkpoint and a file, and prints what they consist of and the folders that name them.
PROGRAM = """
import pathlib, sys
from tests.faults.saves import Saver
from unijax.core.files import atomic_directory, write_file
from unijax.train.checkpoint import Checkpoints

folder = pathlib.Path(sys.argv[1])
saver = Saver()
checkpoints = Checkpoints(folder, keep=1)
for step in (1, 2):
    saver.save(checkpoints, step)
    checkpoints.wait()
checkpoints.close()
write_file(folder / "evaluated", "5")
with atomic_directory(folder / "table") as temporary:
    (temporary / "values").write_text("1")
    (temporary / "keys").write_text("2")
"""


def test_what_has_its_name_is_on_the_disk(tmp_path):
    """Of 79 states with unsynced files emptied, 52 had no checkpoint left to resume from."""
    folder, trace = tmp_path / "run", tmp_path / "trace"
    environment = {
        "LD_PRELOAD": str(build()), "FAULT_FOLDER": str(folder), "FAULT_TRACE": str(trace),
        "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "",
    }  # fmt: skip
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    subprocess.run(command, env=os.environ | environment, check=True)
    lines = [line.split() for line in trace.read_text().splitlines()]
    operations = [(what, int(inode)) for what, inode in lines]
    for name in ("checkpoints/2", "evaluated", "table"):
        named = folder / name
        parts = [named, *named.rglob("*")] if named.is_dir() else [named]
        assert name != "checkpoints/2" or len(parts) > 30
        renamed = ("r", named.stat().st_ino)  # the last: numbers are used again
        given = max(i for i, operation in enumerate(operations) if operation == renamed)
        changed = _changed(operations[:given])
        for part in parts:
            assert part.stat().st_ino not in changed, f"{part} had its name before it was synced"
        # The name itself, before anything else is taken away.
        synced = operations.index(("s", named.parent.stat().st_ino), given)
        assert not any(what == "r" for what, _ in operations[given + 1 : synced]), name


def _changed(operations: list[tuple[str, int]]) -> set[int]:
    """What was changed after it was last synced."""
    found: set[int] = set()
    for what, inode in operations:
        if what == "w":
            found.add(inode)
        elif what == "s":
            found.discard(inode)
    return found

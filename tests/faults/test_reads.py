"""Checkpoints that cannot be read for a moment: nothing says that they are damaged."""

from tests.faults.shim import start

# Restores while the nth reading call fails, once or from then on.
PROGRAM = """
import errno, pathlib, sys
from tests.faults.saves import Saver
from tests.faults.shim import arm, failed, seen
from unijax.core.errors import Unwritable
from unijax.train.checkpoint import Checkpoints

folder = pathlib.Path(sys.argv[1])
saver, checkpoints = Saver(), Checkpoints(folder, keep=2)
for step in (1, 2):
    saver.save(checkpoints, step)
    checkpoints.wait()


def restored() -> int:
    told = []
    state, _ = checkpoints.restore(
        saver.like, saver.trainer.rules, lambda saved: None, lambda *what: told.append(what)
    )
    assert not told, told
    return int(state.step)


for call, name in (
    ("open", "ETIMEDOUT"), ("read", "EINTR"), ("open", "EMFILE"), ("read", "EAGAIN"),
):
    arm(folder, call, 0, 0)
    restored()
    count = seen()
    assert count > 10, count
    for nth in range(1, count + 1, 15):
        arm(folder, call, nth, getattr(errno, name))
        assert restored() == 2, (call, nth)
        assert failed() == 1
arm(folder / "checkpoints" / "2" / "params", "open", 1, errno.ESTALE, 0)
try:
    restored()
except Unwritable as e:
    print(e)
else:
    raise AssertionError("restored what cannot be read")
arm(folder, "", 0, 0)
assert restored() == 2
assert not (folder / "damaged").exists()
print("all of it")
"""


def test_a_checkpoint_that_cannot_be_read_for_a_moment_is_not_set_aside(tmp_path):
    """It was taken for damaged, moved away, and its steps were trained again."""
    process = start("-c", PROGRAM, str(tmp_path))
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said[-3000:]
    assert said.endswith("all of it\n"), said[-3000:]
    assert "Stale file handle" in said

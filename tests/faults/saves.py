"""`python -m tests.faults.saves FOLDER`, with the library of shim.c: saves while calls fail.

Each time one call of one kind fails once, with an error that network file systems give for a
moment. A save then succeeds, or is told as `NotSaved`; whatever it was, the checkpoint before is
whole, the next save succeeds, and nothing is left of a half one.
"""

import argparse
import collections
import errno
import pathlib
import shutil
import threading
import time

import jax
import jax.numpy as jnp

from tests.faults.shim import CALLS, arm, failed, seen
from tests.train.toy import Toy, toy_stage
from unijax.core import quiet  # noqa: F401  (libraries say less)
from unijax.core.errors import UserError
from unijax.parallel.sharding import MeshConfig, make_mesh
from unijax.train import setup
from unijax.train.checkpoint import Checkpoints, abstract, whole_steps

ERRORS = (
    "EINTR", "EMFILE", "ENOTCONN", "ETIMEDOUT", "EBUSY", "ENOLCK", "EREMOTEIO", "EIO", "ESTALE",
    "ENFILE", "ENOMEM", "EAGAIN", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN",
    "ENETUNREACH", "ECONNREFUSED", "ESHUTDOWN", "EPIPE", "EPROTO", "ECOMM", "ENOLINK", "ENOBUFS",
    "ECANCELED", "EKEYEXPIRED", "EACCES", "EPERM", "EFBIG", "ENOSPC", "EDQUOT", "EROFS", "ENXIO",
    "ENODEV",
)  # fmt: skip
DESCRIPTION = {"stage": "toy", "config": {}}


class Saver:
    """Saves the toy's state, and counts what became of it."""

    def __init__(self):
        mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        self.trainer = setup.build(
            Toy(), toy_stage(ema_decay=0.9), mesh, "data", jnp.float32, seed=3
        )
        self.state = self.trainer.begin(self.trainer.init(7))
        self.like = abstract(self.state)
        self.outcomes = collections.Counter()
        self.slowest = 0.0

    def save(self, checkpoints: Checkpoints, step: int) -> None:
        state = self.state.replace(step=jnp.int32(step))
        checkpoints.save(state, DESCRIPTION, {})

    def count(self, folder: pathlib.Path, call: str) -> int:
        """Calls of a kind in a save that is let alone."""
        self._begin(folder)
        arm(folder, call, 0, 0)
        self._second(folder)
        return seen()

    def strike(self, folder: pathlib.Path, call: str, nth: int, error: int, times: int) -> str:
        """One save in which the nth such call fails."""
        self._begin(folder)
        arm(folder, call, nth, error, times)
        begun, found = time.monotonic(), "saved"
        try:
            self._second(folder)
        except UserError as e:
            found = f"told as {type(e).__name__}"
        struck = failed()
        arm(folder, "", 0, 0)
        self.slowest = max(self.slowest, time.monotonic() - begun)
        self._check(folder)
        return found if struck else "not reached"

    def _begin(self, folder: pathlib.Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self._checkpoints = Checkpoints(folder, keep=1)
        self.save(self._checkpoints, 1)
        self._checkpoints.wait()

    def _second(self, folder: pathlib.Path) -> None:
        self.save(self._checkpoints, 2)
        self._checkpoints.wait()

    def _check(self, folder: pathlib.Path) -> None:
        assert whole_steps(folder), "no checkpoint is left"
        self.save(self._checkpoints, 3)
        self._checkpoints.wait()
        state, _ = self._checkpoints.restore(
            self.like, self.trainer.rules, lambda saved: None, lambda step, error: None
        )
        assert int(state.step) == 3
        self._checkpoints.close()
        names = sorted(path.name for path in (folder / "checkpoints").iterdir())
        assert names in (["3"], ["2", "3"]), names
        # A closed event loop lets the threads of its executor go and does not wait until they are.
        left = [
            t for t in threading.enumerate() if not t.daemon and t is not threading.main_thread()
        ]
        for thread in left:
            thread.join(timeout=30)
        assert not any(t.is_alive() for t in left), left


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--calls", nargs="*", default=CALLS)
    parser.add_argument("--every", type=int, default=1, help="strike at every so manieth call")
    parser.add_argument("--times", type=int, default=1, help="calls that fail; 0: all from there")
    args = parser.parse_args()
    saver, number = Saver(), 0
    for call in args.calls:
        count = saver.count(args.folder, call)
        for nth in range(1, count + 1, args.every):
            name = ERRORS[number % len(ERRORS)]
            number += 1
            where = f"{call} {nth} of {count} with {name}"
            try:
                found = saver.strike(args.folder, call, nth, getattr(errno, name), args.times)
            except BaseException as e:
                e.add_note(where)
                raise
            saver.outcomes[found] += 1
    print(f"{number} errors: {dict(saver.outcomes)}; slowest {saver.slowest:.1f} s")


if __name__ == "__main__":
    main()

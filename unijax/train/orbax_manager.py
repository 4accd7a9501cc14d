"""Orbax's manager of checkpoints, where a disk may fail and a run may be given up for dead.

Names are given and taken in `core.files`, which syncs and asks whether this run still may; and what
a save that failed has begun can be ended.
"""

import contextlib
import pathlib
import threading
import time
from collections.abc import Sequence

import orbax.checkpoint as ocp

from unijax.core import storage
from unijax.core.files import check_allowed, commit, patiently, remove
from unijax.core.paths import is_address
from unijax.core.processes import is_lead
from unijax.train import (
    bucket_arrays,  # noqa: F401  (Orbax knows no S3 without it)
    tensorstore_json,  # noqa: F401  (Orbax leaks without it)
)

Place = pathlib.PurePath  # a path, or etils' path of an address

_TO_END = 60.0  # seconds for what a failed save has begun


class Temporary(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """The directory that a checkpoint is written to before it has its name (`core.files.commit`).

    Its own name holds a mark of the run's attempt: what another attempt of the same run, which had
    been given up for dead, writes to is another one.
    """

    mark = ""

    @classmethod
    def of(cls, mark: str) -> type["Temporary"]:
        """The class whose names hold a mark: Orbax makes the objects itself."""
        return type(cls.__name__, (cls,), {"mark": mark})

    @classmethod
    def from_final(cls, final_path, **options):
        name = f"{final_path.name}.{cls.mark}{ocp.path.atomicity.TMP_DIR_SUFFIX}"
        return cls(final_path.parent / name, final_path, **options)

    async def finalize(self) -> None:
        temporary, final = pathlib.Path(self.get()), pathlib.Path(self.get_final())
        text = f"Checkpoint commit was successful to {final}"
        patiently((temporary / ocp.path.atomicity.COMMIT_SUCCESS_FILE).write_text, text)
        commit(temporary, final)


class Marked(ocp.path.atomicity.CommitFileTemporaryPath):
    """The same in a bucket, where a checkpoint is written under its name, and its marker last.

    Of two runs that write one, each having given the other up, one alone puts the marker.
    """

    async def finalize(self) -> None:
        final = str(self.get_final())
        check_allowed(final)
        storage.put_new(storage.join(storage.normal(final), storage.COMMITTED), final.encode())


class _Remover:
    """Takes a checkpoint's name away before its files: what is listed is whole."""

    def __init__(self, directory: Place):
        self._directory = directory

    def delete(self, step: int) -> None:
        if not is_lead():
            return
        place = self._directory / str(step)
        if is_address(place):
            check_allowed(place)
            storage.remove(storage.normal(place))
        else:
            remove(place)

    def delete_steps(self, steps: Sequence[int]) -> None:
        for step in steps:
            self.delete(step)

    def close(self) -> None:
        pass


class Manager(ocp.CheckpointManager):
    """Of a directory of checkpoints."""

    def __init__(self, directory: Place, options: ocp.CheckpointManagerOptions):
        super().__init__(directory, options=options)
        self._checkpoint_deleter = _Remover(directory)

    def abandon(self) -> None:
        """After a failure: ends what else it does, so that nothing writes any more."""
        parts = (
            self.wait_until_finished, self._checkpointer.close,
            self._non_blocking_metadata_store.close, self._blocking_metadata_store.close,
        )  # fmt: skip
        for end in parts:
            with contextlib.suppress(Exception):
                end()
        # The items of a checkpoint are written side by side, each by threads that nobody waits for
        # once another has failed.
        until = time.monotonic() + _TO_END
        for thread in threading.enumerate():
            if type(thread).__module__.startswith("orbax."):
                with contextlib.suppress(Exception):  # it raises what ended it
                    thread.join(max(until - time.monotonic(), 0))

    def reached_preemption(self, step: int) -> bool:
        """Never: `train.preemption` alone asks.

        JAX names the moment to end by the last number that it was asked with. Orbax would ask by
        the step, and the loop then wait for a number that has gone by.
        """
        return False

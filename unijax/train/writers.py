"""Where metrics go: one small interface, with JSONL, TensorBoard and Weights & Biases behind it."""

import contextlib
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from tqdm import tqdm

from unijax.core.errors import UserError
from unijax.core.files import Appended, check_allowed, patiently, unwritable, write_file
from unijax.core.processes import is_lead
from unijax.core.telling import tell_once

FILE = "metrics.jsonl"


def read_log(path: pathlib.Path) -> list[dict]:
    """The rows of a log of metrics, each with a `step`; none where there is no file.

    What is no such row is told and left out: the line that was being written when a run was killed,
    or what damaged a disk.

    Raises:
      UserError: if it cannot be read.
    """
    if not path.exists():
        return []
    try:
        if not path.is_file():  # a pipe would be waited for
            raise UserError(str(path), "no plain file", "a log of metrics", "Move it away.")
        lines = patiently(path.read_bytes).split(b"\n")
    except OSError as e:
        raise unwritable(path, e) from e
    rows = [row for line in lines if line and (row := _row(line)) is not None]
    if damaged := sum(1 for line in lines if line) - len(rows):
        tell_once(f"{path}", f"{path}: {damaged} damaged lines are left out")
    return rows


def _row(line: bytes) -> dict | None:
    try:
        row = json.loads(line)
        whole = isinstance(row, dict) and type(row.get("step")) is int
    except (ValueError, RecursionError):  # no JSON, no UTF-8, a number of thousands of digits
        return None
    return row if whole else None


@runtime_checkable
class Writer(Protocol):
    """Receives scalars, pictures (uint8 [H, W, 3]) and texts by name.

    Who derives from it leaves out what it does nothing with.
    """

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def images(self, step: int, values: Mapping[str, np.ndarray]) -> None: ...

    def texts(self, step: int, values: Mapping[str, str]) -> None: ...

    def close(self) -> None: ...


class JsonlWriter:
    """One JSON object a line: `{"step": ..., name: value, ...}`. Pictures become PNG files."""

    def __init__(self, run_dir: pathlib.Path, resume_step: int, evaluates_again: bool):
        """Lines of a history that is being rewritten are cut.

        Those are the lines after `resume_step`, and where the evaluation of that step is to be made
        again all lines of that step but the first, which is of training.
        """
        self._dir = run_dir
        path = run_dir / FILE
        kept: list[dict] = []
        last = -1
        for row in read_log(path):
            step = row["step"]
            if step < resume_step or (
                step == resume_step and not (evaluates_again and last == step)
            ):
                kept.append(row)
            last = step
        write_file(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = Appended(path)

    def _write(self, row: dict) -> None:
        self._file.write(json.dumps(row).encode())

    def sync(self) -> None:
        """The rows are on the disk, as the checkpoint that goes on from them will be."""
        self._file.sync()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._write({"step": step, **values})

    def images(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        from PIL import Image

        folder = self._dir / "samples"
        folder.mkdir(exist_ok=True)
        for name, pixels in values.items():
            Image.fromarray(pixels).save(folder / f"{step:07d}_{name.replace('/', '_')}.png")

    def texts(self, step: int, values: Mapping[str, str]) -> None:
        self._write({"step": step, "texts": dict(values)})

    def close(self) -> None:
        self._file.close()


class TensorBoardWriter:
    """Event files by tensorboardX, which needs no TensorFlow.

    Its SummaryWriter writes in a thread, and whoever logs waits for it without end where the thread
    died of a full disk: so events are written here. After a failure what was not written goes to a
    new file.
    """

    def __init__(self, run_dir: pathlib.Path, resume_step: int, evaluates_again: bool):
        del evaluates_again  # the same values at the same step
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        self._folder, self._file = run_dir / "tensorboard", None
        self._writer, self._unwritten = EventsWriter, []
        # Hides what an undone history wrote from this step on.
        with contextlib.suppress(OSError):  # written with the next
            self._write(resume_step + 1, session_log=SessionLog(status=SessionLog.START))

    def _write(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._unwritten.append(Event(wall_time=time.time(), step=step, **content))
        self._flush()

    def _flush(self) -> None:
        try:
            if self._file is None and self._unwritten:
                self._folder.mkdir(exist_ok=True)
                self._file = self._writer(str(self._folder / "events"))
            for event in self._unwritten:
                self._file.write_event(event)
            if self._unwritten:
                self._file.flush()
        except OSError:
            self._file = None
            raise
        self._unwritten = []

    def _summaries(self, step: int, values: Iterable) -> None:
        from tensorboardX.proto.summary_pb2 import Summary

        self._write(step, summary=Summary(value=[v for one in values for v in one.value]))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboardX import summary

        self._summaries(step, (summary.scalar(name, x) for name, x in values.items()))

    def images(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        from tensorboardX import summary

        drawn = (summary.image(name, x, dataformats="HWC") for name, x in values.items())
        self._summaries(step, drawn)

    def texts(self, step: int, values: Mapping[str, str]) -> None:
        from tensorboardX import summary

        self._summaries(step, (summary.text(name, x) for name, x in values.items()))

    def close(self) -> None:
        self._flush()
        if self._file is not None:
            self._file.close()


class WandbWriter:
    """Weights & Biases, where its package is installed and configured by its own environment."""

    def __init__(self, run_dir: pathlib.Path, resume_step: int, evaluates_again: bool):
        # The service refuses steps that went by; it keeps the first history.
        del resume_step, evaluates_again
        try:
            import wandb
        except ImportError as e:
            raise UserError(
                "loop.writers",
                "'wandb', whose package is not installed",
                "an installed writer",
                "pip install 'unijax[wandb]', or leave it out of loop.writers.",
            ) from e
        self._wandb = wandb
        self._run = wandb.init(dir=str(run_dir), name=run_dir.name, resume="allow")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def images(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        self._run.log({n: self._wandb.Image(p) for n, p in values.items()}, step=step)

    def texts(self, step: int, values: Mapping[str, str]) -> None:
        self._run.log(
            {n: self._wandb.Html(f"<pre>{t}</pre>") for n, t in values.items()}, step=step
        )

    def close(self) -> None:
        self._run.finish()


WRITERS = {"jsonl": JsonlWriter, "tensorboard": TensorBoardWriter, "wandb": WandbWriter}


class Writers:
    """Several writers as one. What they write is written once: by process 0.

    A disk that cannot be written is told, once in a row, and the run goes on.
    """

    def __init__(
        self,
        names: Sequence[str],
        run_dir: pathlib.Path,
        resume_step: int,
        evaluates_again: bool = False,
        more: Sequence[Writer] = (),
    ):
        """`names` are keys of `WRITERS`; `more` are writers beside those. See `JsonlWriter`."""
        self._writers: list[Writer] = []
        self._told, self._dir = False, run_dir
        if is_lead():
            own = (WRITERS[name](run_dir, resume_step, evaluates_again) for name in names)
            self._writers = [*own, *more]

    def _each(self, write: Callable[[Writer], None]) -> None:
        failed = None
        if self._writers:
            with contextlib.suppress(OSError):  # as what is written below
                check_allowed(self._dir)
        for writer in self._writers:
            try:
                write(writer)
            except OSError as e:
                failed = e
        if failed and not self._told:
            tqdm.write(f"metrics cannot be written ({failed}); the run goes on", file=sys.stderr)
        self._told = failed is not None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._each(lambda writer: writer.scalars(step, values))

    def images(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        self._each(lambda writer: writer.images(step, values))

    def texts(self, step: int, values: Mapping[str, str]) -> None:
        self._each(lambda writer: writer.texts(step, values))

    def sync(self) -> None:
        """What was written is on the disk, as far as a run goes on from it."""
        self._each(lambda writer: writer.sync() if isinstance(writer, JsonlWriter) else None)

    def close(self) -> None:
        self._each(lambda writer: writer.close())

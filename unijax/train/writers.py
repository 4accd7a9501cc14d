"""Where metrics go: one small interface, with JSONL, TensorBoard and Weights & Biases behind it."""

import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from tqdm import tqdm

from unijax.core.errors import UserError
from unijax.core.files import atomic_file
from unijax.core.processes import is_lead


@runtime_checkable
class Writer(Protocol):
    """Receives scalars, pictures (uint8 [H, W, 3]) and texts by name."""

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
        path = run_dir / "metrics.jsonl"
        kept: list[str] = []
        last = -1
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    step = json.loads(line)["step"]
                except json.JSONDecodeError:
                    continue  # the line that was being written when the run was killed
                if step < resume_step or (
                    step == resume_step and not (evaluates_again and last == step)
                ):
                    kept.append(line)
                last = step
        with atomic_file(path) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept))
        self._file = path.open("ab", buffering=0)
        self._unwritten = b""  # for a disk that is full for a while

    def _write(self, line: dict) -> None:
        self._unwritten += json.dumps(line).encode() + b"\n"
        while self._unwritten:
            self._unwritten = self._unwritten[self._file.write(self._unwritten) :]

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
    died of a full disk: so events are written here. After a failure the file ends.
    """

    def __init__(self, run_dir: pathlib.Path, resume_step: int, evaluates_again: bool):
        del evaluates_again  # the same values at the same step
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        (run_dir / "tensorboard").mkdir(exist_ok=True)
        self._events = EventsWriter(str(run_dir / "tensorboard" / "events"))
        # Hides what an undone history wrote from this step on.
        self._write(resume_step + 1, session_log=SessionLog(status=SessionLog.START))

    def _write(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        if self._events is None:
            return
        try:
            self._events.write_event(Event(wall_time=time.time(), step=step, **content))
            self._events.flush()
        except OSError:
            self._events = None
            raise

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
        if self._events is not None:
            self._events.close()


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
        self._told = False
        if is_lead():
            own = (WRITERS[name](run_dir, resume_step, evaluates_again) for name in names)
            self._writers = [*own, *more]

    def _each(self, write: Callable[[Writer], None]) -> None:
        failed = None
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

    def close(self) -> None:
        self._each(lambda writer: writer.close())

"""Where metrics go: one small interface, with JSONL, TensorBoard and Weights & Biases behind it."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

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
        self._file = path.open("a", buffering=1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")

    def images(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        from PIL import Image

        folder = self._dir / "samples"
        folder.mkdir(exist_ok=True)
        for name, pixels in values.items():
            Image.fromarray(pixels).save(folder / f"{step:07d}_{name.replace('/', '_')}.png")

    def texts(self, step: int, values: Mapping[str, str]) -> None:
        self._file.write(json.dumps({"step": step, "texts": dict(values)}) + "\n")

    def close(self) -> None:
        self._file.close()


class TensorBoardWriter:
    """Event files by tensorboardX, which needs no TensorFlow."""

    def __init__(self, run_dir: pathlib.Path, resume_step: int, evaluates_again: bool):
        del evaluates_again  # the same values at the same step
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=resume_step + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def images(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        for name, pixels in values.items():
            self._writer.add_image(name, pixels, step, dataformats="HWC")

    def texts(self, step: int, values: Mapping[str, str]) -> None:
        for name, text in values.items():
            self._writer.add_text(name, text, step)

    def close(self) -> None:
        self._writer.close()


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
    """Several writers as one. What they write is written once: by process 0."""

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
        if is_lead():
            own = (WRITERS[name](run_dir, resume_step, evaluates_again) for name in names)
            self._writers = [*own, *more]

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for writer in self._writers:
            writer.scalars(step, values)

    def images(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        for writer in self._writers:
            writer.images(step, values)

    def texts(self, step: int, values: Mapping[str, str]) -> None:
        for writer in self._writers:
            writer.texts(step, values)

    def close(self) -> None:
        for writer in self._writers:
            writer.close()

"""unijax from Python: train, open a run, draw, ask, score, export. What the command line does.

import unijax

run = unijax.train("janus_demo", "runs/demo", "stage.steps=100")
run.draw("a red fox", n=4)                       # uint8 [4, height, width, 3]
run.ask("What is shown?", images=["fox.png"])
run.export("out")
"""

import functools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from unijax.core import quiet, storage  # noqa: F401  (libraries say less)
from unijax.core.errors import UserError
from unijax.core.files import read_plain, readable
from unijax.core.record import to_json
from unijax.main import config as config_lib
from unijax.main.run import RunConfig, resolve
from unijax.sample.logits import GREEDY, Sampling
from unijax.sample.prompts import Message, question
from unijax.sample.sampler import Sampler

Picture = str | pathlib.Path | bytes | np.ndarray | Image.Image


class Run:
    """A run directory that was trained or imported. Its parameters are read when they are needed.

    Attributes:
      path: of the directory; of a copy on this machine where it is at an address.
    """

    def __init__(self, path: str | pathlib.Path):
        """Raises UserError where there is no checkpoint."""
        from unijax.train.checkpoint import step_directory

        self.path = storage.run_here(path)
        step_directory(self.path)

    def __repr__(self) -> str:
        return f"unijax.Run({str(self.path)!r})"

    @functools.cached_property
    def config(self) -> RunConfig:
        """Of the run that wrote the newest checkpoint."""
        from unijax.train.checkpoint import read_run

        return resolve(read_run(self.path)["config"])

    @functools.cached_property
    def sampler(self) -> Sampler:
        """What draws and answers, with all that it can do."""
        from unijax.main.use import open_sampler

        return open_sampler(self.path)

    @property
    def metrics(self) -> list[dict]:
        """The rows of its log, each with a `step`."""
        from unijax.train import writers

        return writers.read_log(self.path / writers.FILE)

    def draw(
        self,
        prompt: str,
        n: int = 1,
        guidance: float | None = None,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        steps: int | None = None,
    ) -> UInt8[np.ndarray, "n height width 3"]:
        """n pictures of a prompt, as `unijax sample` draws them.

        The prompt is worded as the run learned to draw: set `sampler.plain` for the other way.
        """
        if not isinstance(prompt, str):
            raise UserError("prompt", type(prompt).__name__, "one text", "Draw one after another.")
        if not isinstance(n, int):
            raise UserError("n", repr(n), "how many pictures, an int", "Write it as one.")
        sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
        self.sampler.check_heard(sampling, steps)
        return self.sampler.draw([prompt], n, guidance, sampling, seed, steps)[0]

    def ask(
        self,
        text: str,
        images: Sequence[Picture] | Picture = (),
        max_tokens: int = 256,
        sampling: Sampling = GREEDY,
        seed: int = 0,
    ) -> str:
        """The answer to one question. `chat` goes on from it."""
        return self.chat().ask(text, images, max_tokens, sampling, seed)

    def chat(self) -> "Chat":
        """A conversation of several turns, each with pictures of its own."""
        from unijax.main.use import system_prompt

        return Chat(self.sampler, system_prompt(self.path))

    def export(self, out: str | pathlib.Path, format: str | None = None, **options: Any) -> str:
        """Writes PyTorch weights, as `unijax export`; returns what is to be said of them."""
        from unijax.interop.exporting import export_checkpoint

        return str(export_checkpoint(self.path, out, format, **options))


class Chat:
    """A conversation. Each answer stands before the next question.

    Attributes:
      turns: so far, as `Sampler.answer` takes them.
    """

    def __init__(self, sampler: Sampler, system: str = ""):
        self._sampler = sampler
        self.turns: list[Message] = [{"role": "system", "content": system}] if system else []

    def ask(
        self,
        text: str,
        images: Sequence[Picture] | Picture = (),
        max_tokens: int = 256,
        sampling: Sampling = GREEDY,
        seed: int = 0,
    ) -> str:
        """The answer to a question about the pictures shown now, and all that was said before."""
        return "".join(self.stream(text, images, max_tokens, sampling, seed))

    def stream(
        self,
        text: str,
        images: Sequence[Picture] | Picture = (),
        max_tokens: int = 256,
        sampling: Sampling = GREEDY,
        seed: int = 0,
    ) -> Iterator[str]:
        """The same, a piece at a time. The turn counts once all of it was read."""
        asked = question(text, [_content(image) for image in _listed(images)])
        answer = ""
        for piece in self._sampler.stream([*self.turns, asked], max_tokens, sampling, seed):
            answer += piece
            yield piece
        self.turns += [asked, {"role": "assistant", "content": answer}]


def _content(image: Any) -> bytes | np.ndarray:
    """Bytes of a file, or an array of a picture."""
    if isinstance(image, str | pathlib.Path):
        with readable(str(image), "a picture", "Correct the path."):
            return read_plain(storage.here(image))
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("RGB"))
    array = isinstance(image, np.ndarray) and image.dtype == np.uint8
    if isinstance(image, bytes) or (array and image.ndim == 3 and image.shape[2] == 3):
        return image
    found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image)
    raise UserError(
        "images", f"{found}", "paths, bytes of files, PIL images, or uint8 [height, width, 3]",
        "Convert it.",
    )  # fmt: skip


def _listed(images: Any) -> list:
    """One picture is a list of one."""
    return list(images) if isinstance(images, list | tuple) else [images]


def load(run_dir: str | pathlib.Path) -> Run:
    """The run in a directory.

    Raises:
      UserError: if it holds no checkpoint.
    """
    return Run(run_dir)


def config(source: str, *overrides: str) -> RunConfig:
    """A resolved config: of a file, or of one that is shipped, with changes (`key=value`)."""
    return resolve(config_lib.load(source), overrides)


def train(
    source: str | RunConfig,
    run_dir: str | pathlib.Path,
    *overrides: str,
    init_from: str | pathlib.Path | None = None,
    stop_at: int | None = None,
) -> Run:
    """Trains a config in a directory, or goes on there; as `unijax train`.

    Raises:
      UserError: for a mistake in the config or the data.
      Preempted: on SIGTERM or Ctrl-C, when all is saved.
    """
    from unijax.main.train import train as run_training

    if isinstance(source, str):
        run = config(source, *overrides)
    else:
        run = resolve(to_json(source, whole=True), overrides) if overrides else source
    start = None if init_from is None else str(storage.run_here(init_from))
    run_training(run, run_dir, start, stop_at)
    return Run(run_dir)


def finetune(
    init_from: str | pathlib.Path,
    data: str | pathlib.Path | Sequence[str | pathlib.Path],
    run_dir: str | pathlib.Path,
    *overrides: str,
    source: str = "finetune",
    held_out: Sequence[str | pathlib.Path] = (),
    skip_bad: float = 0.0,
) -> Run:
    """Trains a run's parameters on data of your own; as `unijax finetune`."""
    from unijax.data.user import here
    from unijax.main.checking import checked, with_checks
    from unijax.main.defaults import chosen
    from unijax.main.finetune import with_user_data
    from unijax.train.resume import check_stage

    paths = [data] if isinstance(data, str | pathlib.Path) else data
    run = with_checks(config(source, *overrides), skip_bad, check=True)
    init_from = storage.run_here(init_from)
    mine, held = ([here(p) for p in some] for some in (paths, held_out))
    run = with_user_data(run, str(init_from), mine, held)
    check_stage(run_dir, run.stage.name)
    run = checked(run, pathlib.Path(run_dir))
    run = chosen(run, run_dir, overrides)
    return train(run, run_dir, init_from=init_from)

"""Using a run directory: open it for sampling, hold a conversation."""

import pathlib
from collections.abc import Sequence

from unijax.core.errors import UserError
from unijax.core.files import read_plain, writable_directory
from unijax.core.record import build
from unijax.data import tokenizer as tokenizers
from unijax.data.templates import TEMPLATES
from unijax.evaluate.captioned import GUIDANCE, Ask, Draw
from unijax.main.run import DTYPES
from unijax.sample.interleaved import compose
from unijax.sample.logits import GREEDY, Sampling
from unijax.sample.pictures import save_png
from unijax.sample.prompts import question
from unijax.sample.sampler import Sampler
from unijax.systems.registry import recipe
from unijax.train.checkpoint import read_params, read_run, step_directory


def open_sampler(run_dir: str | pathlib.Path) -> Sampler:
    """What `unijax train` or `unijax import` wrote, ready to draw and answer.

    Raises:
      UserError: if its system reads no rows of text and images, or it has no tokenizer.
    """
    config = read_run(run_dir)["config"]
    of = recipe(config["system"])
    if of.eats != "rows":
        raise UserError(
            str(run_dir), f"a run of the system {of.name!r}", "one that reads and writes text",
            "Give the run directory of a decoder.",
        )  # fmt: skip
    dtype = DTYPES[config.get("dtype", "float32")]
    system = of.system(build(of.config, config["model"], "model"), dtype=dtype, param_dtype=dtype)
    data = config.get("data", {})
    return Sampler(
        system,
        read_params(run_dir),
        tokenizers.load(step_directory(run_dir).parent.parent / "tokenizer"),
        TEMPLATES[data.get("template", "janus_pro")],
        data.get("und_rounding", "floor"),
        trained_length=data.get("row_length", 0),
    )


def draws(sampler: Sampler, sampling: Sampling = GREEDY) -> Draw:
    """One picture for each prompt, without guidance (`evaluate.captioned.GUIDANCE`)."""
    return lambda prompts: sampler.draw(prompts, 1, GUIDANCE, sampling)[:, 0]


def asks(sampler: Sampler) -> Ask:
    """A short, greedy answer to each question about a picture."""

    def answer(asked):
        return sampler.answer([[question(text, [picture])] for picture, text in asked], 24)

    return answer


def system_prompt(run_dir: str | pathlib.Path) -> str:
    """What the processor of an imported model puts before a conversation; empty of other runs."""
    return read_run(run_dir)["config"].get("data", {}).get("system_prompt", "")


def converse(
    sampler: Sampler,
    system: str,
    images: Sequence[str],
    questions: Sequence[str],
    max_tokens: int,
    sampling: Sampling,
    seed: int,
    folder: pathlib.Path | None = None,
) -> None:
    """Prints an answer to each question; without questions, reads them from the terminal.

    Args:
      system: put before all turns; empty for none.
      images: files, shown before the first question.
      folder: where pictures of the answers go; without one an answer ends where a picture begins.
    """
    if folder is not None:
        writable_directory(folder)
    drawn = 0
    pictures = [_read(pathlib.Path(path)) for path in images]
    turns = [{"role": "system", "content": system}] if system else []
    for i, text in enumerate(questions or _typed()):
        turns.append(question(text, [] if i else pictures))
        if folder is None:
            (answer,) = sampler.answer([turns], max_tokens, sampling, seed)
            turns.append({"role": "assistant", "content": answer})
        else:
            (pieces,) = compose(sampler, [turns], max_tokens, sampling=sampling, seed=seed)
            turns.append({"role": "assistant", "content": pieces})
            lines = []
            for piece in pieces:
                if isinstance(piece, str):
                    lines.append(piece)
                    continue
                path = folder / f"{drawn:03}.png"
                save_png(path, piece)
                lines.append(f"[{path}]")
                drawn += 1
            answer = "\n".join(lines)
        print(answer if not questions or len(questions) == 1 else f"> {text}\n{answer}")


def _typed():
    while True:
        try:
            yield input("> ")
        except EOFError:
            return


def _read(path: pathlib.Path) -> bytes:
    try:
        return read_plain(path)
    except OSError as e:
        raise UserError(
            str(path), f"no readable file ({e.strerror})", "a picture", "Correct --image."
        ) from e

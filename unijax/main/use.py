"""Using a run directory: open it for sampling, hold a conversation."""

import contextlib
import pathlib
import re
import sys
from collections.abc import Sequence

from unijax.core.errors import UserError
from unijax.core.files import read_plain, writable_directory
from unijax.core.record import build
from unijax.data import tokenizer as tokenizers
from unijax.data.tasks import PLAIN
from unijax.data.templates import TEMPLATES, check_marks
from unijax.data.user.picture import PICTURES
from unijax.evaluate.captioned import GUIDANCE, Ask, Draw
from unijax.main.run import DTYPES
from unijax.sample.interleaved import compose
from unijax.sample.logits import GREEDY, Sampling
from unijax.sample.pictures import save_png
from unijax.sample.prompts import Message, question
from unijax.sample.sampler import Sampler
from unijax.systems.registry import recipe
from unijax.train.checkpoint import read_params, read_run, step_directory


def open_sampler(run_dir: str | pathlib.Path, plain: bool | None = None) -> Sampler:
    """What `unijax train` or `unijax import` wrote, ready to draw and answer.

    Args:
      plain: whether prompts are captions alone (`Sampler`); None is as the run learned to draw.

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
    template = data.get("template", "janus_pro")
    tokenizer = tokenizers.load(step_directory(run_dir).parent.parent / "tokenizer")
    check_marks(template, tokenizer.tokens, tokenizer.where)
    return Sampler(
        system,
        read_params(run_dir),
        tokenizer,
        TEMPLATES[template],
        data.get("und_rounding", "floor"),
        trained_length=data.get("row_length", 0),
        plain=_is_plain(data) if plain is None else plain,
    )


def _is_plain(data: dict) -> bool:
    """Whether the recorded data of a run teach to draw from captions alone.

    Where some teach it in the template's turns, those are what a user writes in; where none teach
    it, as of an imported model, the template is all that is known.
    """
    tasks = {
        source["task"]
        for group in data.get("groups", ())
        if group["name"] == "gen" and group["ratio"] > 0
        for source in group["sources"]
        if source["weight"] > 0
    }
    return bool(tasks) and tasks <= set(PLAIN)


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
    """Prints an answer to each question, as it is written; without questions, asks for them.

    Words of a question that begin with @ and name a file are pictures, shown before it.

    Args:
      system: put before all turns; empty for none.
      images: files, shown before the first question.
      folder: where pictures of the answers go; without one an answer ends where a picture begins.
    """
    if folder is not None:
        writable_directory(folder)
    drawn = 0
    pictures = [_read(pathlib.Path(path)) for path in images]
    start = [{"role": "system", "content": system}] if system else []
    turns = list(start)
    for text in questions or _typed():
        if not questions and text.strip() == NEW:
            turns, pictures = list(start), []
            continue
        try:
            words, more = _apart(text)
        except UserError as e:
            if questions:
                raise
            print(f"error: {e}")
            continue
        before = list(turns)
        turns.append(question(words, [*pictures, *more]))
        if len(questions) > 1:
            print(f"> {text}")
        try:
            drawn = _answer(sampler, turns, max_tokens, sampling, seed, folder, drawn)
        except UserError as e:
            if questions:
                raise
            print(f"error: {e}")  # the talk goes on without this question
            turns = before
            continue
        pictures = []


def _answer(
    sampler: Sampler,
    turns: list[Message],
    max_tokens: int,
    sampling: Sampling,
    seed: int,
    folder: pathlib.Path | None,
    drawn: int,
) -> int:
    """Prints the answer and puts it behind the turns; the number of pictures drawn so far."""
    if folder is None:
        answer = ""
        for piece in sampler.stream(turns, max_tokens, sampling, seed):
            answer += piece
            print(piece, end="", flush=True)
        print()
        turns.append({"role": "assistant", "content": answer})
        return drawn
    (pieces,) = compose(sampler, [turns], max_tokens, sampling=sampling, seed=seed)
    turns.append({"role": "assistant", "content": pieces})
    for piece in pieces:
        if isinstance(piece, str):
            print(piece)
            continue
        path = folder / f"{drawn:03}.png"
        save_png(path, piece)
        print(f"[{path}]")
        drawn += 1
    return drawn


NEW = "/new"  # typed: begins another conversation


# A picture in a question: its path behind @, in quotes where there is a space in it.
_AT = re.compile(r"""(?<![\w@])@(?:"([^"\n]+)"|'([^'\n]+)'|(\S+))""")


def _apart(text: str) -> tuple[str, list[bytes]]:
    """The words of a question, and its pictures.

    Raises:
      UserError: for a name behind @ that ends as a picture's does, and is none.
    """
    pictures: list[bytes] = []

    def taken(found: re.Match) -> str:
        quoted = found[1] or found[2]
        path = quoted or _path_of(found[3])
        if path is None:
            return found[0]  # a word
        if not _is_file(path):
            raise UserError(
                f"@{path}",
                "no such file",
                '@ and the path of a picture (@"a b.png")',
                "Correct it.",
            )
        pictures.append(_read(pathlib.Path(path).expanduser()))
        return "" if quoted else found[3][len(path) :]

    words = _AT.sub(taken, text)
    return re.sub(r" {2,}", " ", words).strip() if pictures else text.strip(), pictures


def _path_of(word: str) -> str | None:
    """The path in a word: all of it, or without marks behind it (`@a.png?`, `(@a.png)`)."""
    bare = word.rstrip("?!.,;:)]}>\"'")
    for path in (word, bare):
        if _is_file(path):
            return path
    return bare if pathlib.Path(bare).suffix.lower() in PICTURES else None


def _is_file(path: str) -> bool:
    try:
        return pathlib.Path(path).expanduser().is_file()
    except (OSError, RuntimeError):  # a word longer than a name may be; nobody's home
        return False


def _typed():
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (lines can be edited, and come back)
        print(f"A picture is shown by @PATH. {NEW} begins anew, Ctrl-D ends.", file=sys.stderr)
    while True:
        try:
            text = input("> ")
        except EOFError:
            return
        if text.strip():
            yield text


def _read(path: pathlib.Path) -> bytes:
    try:
        return read_plain(path)
    except OSError as e:
        raise UserError(
            str(path), f"no readable file ({e.strerror})", "a picture", "Correct --image."
        ) from e

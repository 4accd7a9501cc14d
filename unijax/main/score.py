"""`unijax score`: how likely a run finds texts."""

import json
import pathlib
from collections.abc import Callable

from unijax.core.errors import UserError
from unijax.core.files import read_plain
from unijax.evaluate.texts import Choice, perplexity, ranked
from unijax.sample.sampler import Sampler


def score(sampler: Callable[[], Sampler], path: pathlib.Path) -> str:
    """The perplexity of a file's texts, or the share of its choices that are right, in words.

    Args:
      sampler: opened when the file is known to be right.
      path: a text, or JSONL of `{"text": ...}` or of
        `{"context": ..., "choices": [...], "answer": 0}`.

    Raises:
      UserError: for a file that is neither.
    """
    found = _read(path)
    if isinstance(found[0], str):
        result = perplexity(sampler().score, found)
        return (
            f"{len(found)} texts, {result.tokens:,} tokens: perplexity {result.per_token:.4g} a "
            f"token, {result.bits_per_byte:.4f} bits a byte"
        )
    result = ranked(sampler().score, found)
    return (
        f"{len(found)} questions: {result.accuracy:.2%} right by likelihood, "
        f"{result.per_byte:.2%} by likelihood a byte"
    )


def _read(path: pathlib.Path) -> list[str] | list[Choice]:
    try:
        text = read_plain(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(str(path), f"{e}", "a text file in UTF-8", "Correct --data.") from None
    if path.suffix != ".jsonl":
        if not text.strip():
            raise UserError(str(path), "no text", "some", "Correct --data.")
        return [text]
    lines = enumerate(text.split("\n"), start=1)
    found = [_record(f"{path}:{number}", line) for number, line in lines if line.strip()]
    if not found or len({type(one) for one in found}) > 1:
        raise UserError(
            str(path), "texts and choices" if found else "no line", "lines of one kind",
            "Put them into files of their own.",
        )  # fmt: skip
    return found


def _record(where: str, line: str) -> str | Choice:
    try:
        record = json.loads(line)
        if "text" in record:
            found = record["text"]
            ok = isinstance(found, str) and found
        else:
            choices, answer = record["choices"], record["answer"]
            found = Choice(record["context"], tuple(choices), answer)
            words = [found.context, *found.choices]
            ok = all(isinstance(w, str) for w in words) and type(answer) is int
    except (ValueError, TypeError, KeyError, RecursionError):
        ok = False
    if not ok:
        raise UserError(
            where, line[:80],
            '{"text": ...} or {"context": ..., "choices": [...], "answer": 0}', "Correct the line.",
        )  # fmt: skip
    if isinstance(found, Choice) and "" in found.choices:
        expected = "words in each: of none, nothing is unlikely"
        raise UserError(where, "an empty choice", expected, "Correct the line.")
    return found

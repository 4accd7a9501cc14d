"""Perplexity, and choices ranked by likelihood: how language models are compared on text.

`score` stands for a model: of pairs (context, continuation) it gives the summed negative
log-likelihood of each continuation in nats, and its tokens.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

from unijax.core.errors import UserError

Score = Callable[[Sequence[tuple[str, str]]], list[tuple[float, int]]]


@dataclasses.dataclass(frozen=True)
class Perplexity:
    """Of texts.

    Attributes:
      per_token: exp of the mean nats of a token; it hangs on the tokenizer.
      bits_per_byte: which does not.
      tokens: that were predicted.
    """

    per_token: float
    bits_per_byte: float
    tokens: int


def perplexity(score: Score, texts: Sequence[str]) -> Perplexity:
    """Of texts, each by itself from its beginning.

    Raises:
      UserError: if there is none, or no token in all of them.
    """
    if not texts:
        raise UserError("texts", "none", "1 or more", "Add one.")
    found = score([("", text) for text in texts])
    nats, tokens = (sum(part) for part in zip(*found))
    if not tokens:
        raise UserError("texts", "no token", "1 or more", "Add words.")
    size = sum(len(text.encode()) for text in texts)
    return Perplexity(math.exp(nats / tokens), nats / math.log(2) / size, tokens)


@dataclasses.dataclass(frozen=True)
class Choice:
    """A context, what may follow, and which of it does."""

    context: str
    choices: tuple[str, ...]
    answer: int


@dataclasses.dataclass(frozen=True)
class Ranked:
    """Shares of choices that were right.

    Attributes:
      accuracy: the most likely continuation is the answer.
      per_byte: of likelihoods to the power of 1 over the bytes of the continuation ("acc_norm" of
        EleutherAI's evaluation harness).
      picked: by the first rule, of every choice.
    """

    accuracy: float
    per_byte: float
    picked: tuple[int, ...]


def ranked(score: Score, asked: Sequence[Choice]) -> Ranked:
    """The most likely continuation of each context.

    Raises:
      UserError: for no question, fewer than two choices, an answer that is none of them, or a
        choice without a token, which would always win.
    """
    if not asked:
        raise UserError("choices", "no question", "1 or more", "Add one.")
    for i, one in enumerate(asked):
        if len(one.choices) < 2 or not 0 <= one.answer < len(one.choices):
            raise UserError(
                f"question {i}", f"answer {one.answer} of {len(one.choices)} choices",
                "two choices or more, and the index of one of them", "Correct it.",
            )  # fmt: skip
    pairs = [(one.context, choice) for one in asked for choice in one.choices]
    found = score(pairs)
    of_question = [i for i, one in enumerate(asked) for _ in one.choices]
    for i, (_, choice), (_, tokens) in zip(of_question, pairs, found):
        if not tokens:
            raise UserError(
                f"question {i}", f"the choice {choice!r}, without a token",
                "words: of none, nothing is unlikely", "Correct it.",
            )  # fmt: skip
    nats = iter([nats for nats, _ in found])
    picked, by_byte = [], []
    for one in asked:
        of = [next(nats) for _ in one.choices]
        each = [n / max(len(choice.encode()), 1) for n, choice in zip(of, one.choices)]
        picked.append(of.index(min(of)))
        by_byte.append(each.index(min(each)))
    right = [one.answer for one in asked]
    share = lambda found: sum(a == b for a, b in zip(found, right)) / len(right)  # noqa: E731
    return Ranked(share(picked), share(by_byte), tuple(picked))

"""From a record to a document: pieces become spans of ids with weights.

What is learned, for every task: text that the task marks, each id at the position before it, and
the codes of generated images. Begin-of-sequence, begin-of-image, end-of-image and the positions of
images to understand are never answers; begin-of-image is the position that answers code 0, and
nothing is learned at the last code (exactly N codes are drawn: end-of-image is never predicted).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from unijax.data.document import (
    Document,
    GenSpan,
    ImageRef,
    ImageTokens,
    Span,
    TextSpan,
    UndSpan,
    span_size,
    stable_hash,
)
from unijax.data.tasks import TASKS, Context
from unijax.data.templates import Break, Eos, Gen, Piece, Role, Template, Text, Und
from unijax.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class RenderConfig:
    """How records become documents.

    Attributes:
      images: tokens of an image in each stream.
      template: of conversations.
      p_first_sentence: how often a caption to draw from keeps only its first sentence.
      p_drop_condition: how often the condition of an image to generate is replaced by pad tokens,
        for classifier-free guidance.
      seed: of every random choice, together with the document's own name.
    """

    images: ImageTokens
    template: Template
    p_first_sentence: float = 0.25
    p_drop_condition: float = 0.1
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class DocumentKey:
    """Which record, and in which epoch. Every random choice follows from it and the run's seed."""

    source: str
    epoch: int
    index: int

    def __str__(self) -> str:
        return f"{self.source}/{self.epoch}/{self.index}"


def render(
    record: dict, task: str, key: DocumentKey, tokenizer: Tokenizer, config: RenderConfig
) -> Document:
    """Renders a record for a task.

    Raises:
      UserError: naming the record, where it lacks what the task needs.
    """
    rng = np.random.default_rng([config.seed, stable_hash(key.source), key.epoch, key.index])
    where = record.get("where") or f"{key.source}[{key.index}] (id {record.get('id')!r})"
    count = 0

    def image(raw: object) -> ImageRef:
        nonlocal count
        count += 1
        return ImageRef(where, raw, stable_hash(config.seed, key, count))

    context = Context(where, config.template, rng, image, config.p_first_sentence)
    pieces = TASKS[task](record, context)
    spans = to_spans(pieces, tokenizer)
    if any(isinstance(span, GenSpan) for span in spans) and rng.random() < config.p_drop_condition:
        spans = drop_condition(spans, tokenizer.special.pad, config.images)
    return Document(str(key), tuple(spans))


def to_spans(pieces: Sequence[Piece], tokenizer: Tokenizer) -> list[Span]:
    """Pieces to spans. Neighbouring texts are encoded together unless the loss parts them.

    The border of the loss is where a prompt ends at sampling time, so ids on both sides of it are
    the ids that sampling sees.
    """
    spans: list[Span] = []
    ids: list[int] = []
    weights: list[float] = []
    text, trained = "", False

    def add(new: list[int], weight: bool) -> None:
        ids.extend(new)
        weights.extend([float(weight)] * len(new))

    def end_text() -> None:
        nonlocal text
        if text:
            add(tokenizer.encode(text), trained)
        text = ""

    def end_span() -> None:
        end_text()
        if ids:
            spans.append(TextSpan(tuple(ids), tuple(weights)))
        ids.clear()
        weights.clear()

    for piece in pieces:
        match piece:
            case Role(name) if name in tokenizer.tokens:
                end_text()
                add([tokenizer.tokens[name]], False)
            case Role(words) | Text(words):
                wanted = isinstance(piece, Text) and piece.trained
                if wanted != trained:
                    end_text()
                text, trained = text + words, wanted
            case Eos():
                end_text()
                add([tokenizer.special.eos], piece.trained)
            case Und(image):
                end_span()
                spans.append(UndSpan(image))
            case Gen(image):
                end_span()
                spans.append(GenSpan(image))
            case Break():
                end_span()
    end_span()
    return spans


def drop_condition(spans: Sequence[Span], pad: int, images: ImageTokens) -> list[Span]:
    """The unconditional stream: all between begin-of-sequence and the last generated image's
    begin-of-image becomes the pad id, an ordinary, attended token. Lengths stay.
    """
    last = max(i for i, span in enumerate(spans) if isinstance(span, GenSpan))
    padded = []
    for span in spans[:last]:
        tokens = span_size(span, images).tokens
        padded.append(TextSpan((pad,) * tokens, (0.0,) * tokens))
    return [*padded, *spans[last:]]

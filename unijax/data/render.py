"""From a record to a document: pieces become spans of ids with weights.

What is learned, for every task: text that the task marks, each id at the position before it, and
of images what the recipe's streams say (`core.stream`). What a document begins with is never an
answer.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from unijax.core.stream import Layout
from unijax.data.document import (
    Document,
    ImageRef,
    ImageSpan,
    Span,
    TextSpan,
    span_size,
    stable_hash,
)
from unijax.data.tasks import TASKS, Context
from unijax.data.templates import Break, Eos, Image, Piece, Role, Template, Text
from unijax.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class RenderConfig:
    """How records become documents.

    Attributes:
      layout: of the recipe.
      template: of conversations.
      p_first_sentence: how often a caption to draw from keeps only its first sentence.
      p_drop_condition: how often the condition of an image to generate is replaced, as its stream
        says, for classifier-free guidance.
      p_drop_images: how often black pictures stand for those that an image is made from, where a
        stream leaves out words alone.
      p_drop_both: how often both happens, of those.
      learn_prompts: whether text that a task gives is learned like what it asks for.
      seed: of every random choice, together with the document's own name.
    """

    layout: Layout
    template: Template
    p_first_sentence: float = 0.25
    p_drop_condition: float = 0.1
    learn_prompts: bool = False
    seed: int = 0
    p_drop_images: float = 0.0
    p_drop_both: float = 0.0


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
    images = _Images(where, f"{config.seed}/{key}")
    context = Context(where, config.template, rng, images.take, config.p_first_sentence)
    pieces = TASKS[task](record, context)
    spans = to_spans(pieces, tokenizer)
    if config.learn_prompts:
        spans = [_learned(span) if isinstance(span, TextSpan) else span for span in spans]
    made = last_made(spans)
    if made is not None:
        spans = [*with_sources(spans[:made], config.layout), *spans[made:]]
    if made is not None:
        spans = _dropped(spans, made, rng.random(), tokenizer, config, where)
    return Document(str(key), tuple(spans), where)


def _dropped(
    spans: list[Span],
    made: int,
    u: float,
    tokenizer: Tokenizer,
    config: RenderConfig,
    where: str,
) -> list[Span]:
    """The document, or with less of a condition for the image at `made`, as one draw says."""
    if config.layout.by_role["gen"].unconditional != "words":
        if u >= config.p_drop_condition:
            return spans
        return drop_condition(spans, made, tokenizer.special.pad, config.layout)
    image, before = spans[made], spans[:made]
    # facebookresearch/metaquery (`dataset.py`): words on [0, 0.2), pictures on [0.1, 0.3).
    first = config.p_drop_condition - config.p_drop_both
    if first <= u < first + config.p_drop_images:
        before = without_pictures(before)
        spans = [*before, image, *spans[made + 1 :]]
    if u < config.p_drop_condition:
        spans = [*without_words(before, tokenizer, config.template, where), image]
    return spans


def without_words(
    before: Sequence[Span], tokenizer: Tokenizer, template: Template, where: str
) -> list[Span]:
    """What stands before an image to generate, as if the user had said nothing: what he shows
    stays."""
    shown = [span for span in before if _is_shown(span)]
    asked = to_spans(template.asking([span.image for span in shown] or "", where), tokenizer)
    roles = iter(shown)
    return [next(roles) if isinstance(span, ImageSpan) else span for span in asked]


# Stands for a picture that is not to be seen; any size of it is the same.
BLACK = np.zeros((64, 64, 3), np.uint8)


def without_pictures(before: Sequence[Span]) -> list[Span]:
    """The same with black pictures."""

    def black(span: ImageSpan) -> ImageSpan:
        return dataclasses.replace(span, image=ImageRef(span.image.where, BLACK, span.image.seed))

    return [black(span) if _is_shown(span) else span for span in before]


def _is_shown(span: Span) -> bool:
    return isinstance(span, ImageSpan) and span.role != "gen"


def to_spans(pieces: Sequence[Piece], tokenizer: Tokenizer) -> list[Span]:
    """Pieces to spans. Neighbouring texts are encoded together unless the loss parts them.

    The border of the loss is where a prompt ends at sampling time, so ids on both sides of it are
    the ids that sampling sees.
    """
    spans = _Spans(tokenizer)
    for piece in pieces:
        match piece:
            case Role(name) if name in tokenizer.tokens:
                spans.add_special(tokenizer.tokens[name], trained=False)
            case Role(name):
                spans.add_text(name, trained=False)
            case Text(text, trained):
                spans.add_text(text, trained)
            case Eos(trained):
                spans.add_special(tokenizer.special.eos, trained)
            case Image(role, image):
                spans.add_image(ImageSpan(role, image))
            case Break():
                spans.end_span()
    spans.end_span()
    return spans.done


def _learned(span: TextSpan) -> TextSpan:
    return TextSpan(span.ids, (1.0,) * len(span.ids))


class _Images:
    """Counts the images of a record: each has a seed of its own."""

    def __init__(self, where: str, name: str):
        self._where, self._name, self._count = where, name, 0

    def take(self, raw: object) -> ImageRef:
        self._count += 1
        return ImageRef(self._where, raw, stable_hash(self._name, self._count))


class _Spans:
    """Spans so far, and the text span in progress."""

    def __init__(self, tokenizer: Tokenizer):
        self.done: list[Span] = []
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._weights: list[float] = []
        self._text, self._trained = "", False  # not yet encoded

    def add_text(self, text: str, trained: bool) -> None:
        if trained != self._trained:
            self._end_text()
        self._text, self._trained = self._text + text, trained

    def add_special(self, token_id: int, trained: bool) -> None:
        self._end_text()
        self._add([token_id], trained)

    def add_image(self, span: ImageSpan) -> None:
        self.end_span()
        self.done.append(span)

    def end_span(self) -> None:
        self._end_text()
        if self._ids:
            self.done.append(TextSpan(tuple(self._ids), tuple(self._weights)))
        self._ids, self._weights = [], []

    def _end_text(self) -> None:
        if self._text:
            self._add(self._tokenizer.encode(self._text), self._trained)
        self._text = ""

    def _add(self, ids: list[int], trained: bool) -> None:
        self._ids += ids
        self._weights += [float(trained)] * len(ids)


def last_made(spans: Sequence[Span]) -> int | None:
    """Where the last image to generate stands among the spans; None where there is none."""
    made = [i for i, s in enumerate(spans) if isinstance(s, ImageSpan) and s.role == "gen"]
    return made[-1] if made else None


def with_sources(spans: Sequence[Span], layout: Layout) -> list[Span]:
    """Spans before an image to generate: images that are shown there are what it is made from.

    They have the role "source" where the recipe has one; else they are understood like others.
    """
    if "source" not in layout.by_role:
        return list(spans)
    shown = lambda span: isinstance(span, ImageSpan) and span.role == "und"  # noqa: E731
    return [dataclasses.replace(s, role="source") if shown(s) else s for s in spans]


def drop_condition(spans: Sequence[Span], made: int, pad: int, layout: Layout) -> list[Span]:
    """The unconditional stream of the image at `made`: what stands before it is replaced.

    By its stream: "pad" puts the pad id, an ordinary, attended token, in place of all between the
    document's first token and the image's mark, and lengths stay; "empty" leaves it out. What
    follows the image is left out: answers to what is no longer there.
    """
    if layout.by_role[spans[made].role].unconditional == "empty":
        return [spans[made]]
    padded = []
    for span in spans[:made]:
        tokens = span_size(span, layout).tokens
        padded.append(TextSpan((pad,) * tokens, (0.0,) * tokens))
    return [*padded, spans[made]]

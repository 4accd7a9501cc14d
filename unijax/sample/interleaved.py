"""Texts with pictures within them: the system says where a picture begins, and draws it there."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from unijax.core.errors import UserError
from unijax.core.making import InPlace
from unijax.core.processes import to_host
from unijax.data.document import Document, ImageRef, ImageSpan, TextSpan
from unijax.data.render import with_sources
from unijax.ops.image import to_signed
from unijax.sample.logits import GREEDY, Sampling
from unijax.sample.prompts import Message, continued, conversation
from unijax.sample.sampler import Sampler

Piece = str | UInt8[np.ndarray, "height width 3"]


@dataclasses.dataclass
class _Answer:
    """One that is being written: all before its end, and what of it is the answer."""

    document: Document
    pieces: list[Piece]
    tokens: int = 0
    pictures: int = 0


def compose(
    sampler: Sampler,
    conversations: Sequence[Sequence[Message]],
    max_tokens: int = 256,
    most: int = 4,
    sampling: Sampling = GREEDY,
    guidance: float | None = None,
    seed: int = 0,
    steps: int | None = None,
) -> list[list[Piece]]:
    """What the assistant says next, texts and pictures in order.

    Text is written until the system says that an image begins; the picture is drawn there, from all
    that stands before it, and stands in the row, as it was made, for what follows: to the end of
    the answer, or to the next picture. Where pictures are drawn from captions alone
    (`Sampler.plain`) the conversation has no roles.

    Args:
      conversations: as of `Sampler.answer`.
      max_tokens: of text; an answer that is not finished by then is cut, and so is one for whose
        next text or picture the model has no positions left.
      most: pictures of an answer; the next one that begins ends it.
      sampling, guidance, steps: as of `Sampler.make`; the sampling is of words too.
      seed: another seed, another answer, unless the temperature is 0 and images are codes.

    Raises:
      UserError: a system that does not say by itself that an image begins, or as `Sampler.answer`.
    """
    system = sampler.system
    maker = system.maker
    stream = maker and system.layout.by_role[maker.role]
    if not stream or stream.before is None or not stream.before.learned:
        raise UserError(
            type(system).__name__, "it does not learn to say that an image begins",
            "a system that does", "Ask for pictures with `unijax sample`.",
        )  # fmt: skip
    begin = getattr(sampler.tokenizer.special, stream.before.name)
    answers = []
    for i, messages in enumerate(conversations):
        where = f"conversation {i}"
        if sampler.plain:
            document = continued(messages, sampler.tokenizer, where)
        else:
            document = conversation(messages, sampler.tokenizer, sampler.template, where)
        answers.append(_Answer(_encoded(sampler, document, stream.slots), []))
    going = answers
    for answer in answers:
        sampler.checked_length(answer.document, max_tokens)
    while going:
        left = [min(max_tokens - a.tokens, sampler.room(a.document)) for a in going]
        documents = [a.document for a in going]
        texts = sampler.written(documents, left, sampler.ends, sampling, seed)
        drawing = []
        for answer, ids in zip(going, texts):
            answer.tokens += len(ids)
            if text := sampler.text(ids):
                answer.pieces.append(text)
            if ids[-1:] == [begin] and answer.pictures < most:
                said = tuple(ids[:-1])
                spans = [*answer.document.spans, TextSpan(said, (0.0,) * len(said))]
                answer.document = dataclasses.replace(answer.document, spans=tuple(spans))
                if sampler.room(answer.document) > maker.tokens:  # the mark and the picture
                    drawing.append(answer)
        if drawing:
            _draw(sampler, drawing, sampling, guidance, seed, steps)
        going = [a for a in drawing if a.tokens < max_tokens and sampler.room(a.document) > 0]
    return [answer.pieces for answer in answers]


def _draw(sampler: Sampler, answers, sampling, guidance, seed, steps) -> None:
    """A picture at the end of each."""
    system, maker = sampler.system, sampler.system.maker
    layout, documents = system.layout, []
    for answer in answers:
        # A picture that was shown is what the drawn one is made of, beside those that were drawn.
        spans = tuple(with_sources(answer.document.spans, layout))
        document = dataclasses.replace(answer.document, spans=spans)
        documents.append(_encoded(sampler, document, layout.by_role[maker.role].slots))
    made, kept = sampler.make_and_keep(
        documents, 1, guidance, sampling, seed, steps, [a.pictures for a in answers]
    )
    shown, kept = sampler.show(made)[:, 0], kept[:, 0]
    if isinstance(maker, InPlace):
        kept = to_host(getattr(system, maker.carried)(sampler.params, jnp.asarray(kept)))
    for answer, pixels, values in zip(answers, shown, kept):
        name = f"picture {answer.pictures}"  # what it is follows from what stands before it
        image = ImageSpan(maker.role, ImageRef(answer.document.name, values, name=name))
        spans = (*answer.document.spans, image)
        answer.document = dataclasses.replace(answer.document, spans=spans)
        answer.pieces.append(pixels)
        answer.pictures += 1


def _encoded(sampler: Sampler, document: Document, slots: str) -> Document:
    """The document with its pictures of an array of slots as those that are made will be."""
    system, spans = sampler.system, []
    for span in document.spans:
        is_there = isinstance(span, ImageSpan) and system.layout.by_role[span.role].slots == slots
        if is_there and not span.image.name:
            pixels = to_signed(jnp.asarray(sampler.prompting.pixels(span)[None]), system.dtype)
            values = getattr(system, system.encoded[slots].method)(sampler.params, pixels)
            image = ImageRef(span.image.where, to_host(values)[0], name=span.image.key)
            span = dataclasses.replace(span, image=image)
        spans.append(span)
    return dataclasses.replace(document, spans=tuple(spans))

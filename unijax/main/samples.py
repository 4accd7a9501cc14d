"""What a run draws and says of its held-out rows as it trains, for people to look at."""

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np

from unijax.core.batch import ImageBatch
from unijax.core.processes import of_the_lead, to_host
from unijax.core.system import RowSystem, System
from unijax.data.config import preparation
from unijax.data.document import Document, ImageSpan, TextSpan
from unijax.data.sources import open_sources
from unijax.data.templates import TEMPLATES
from unijax.data.tokenizer import Tokenizer
from unijax.main.run import RunConfig
from unijax.ops.image import to_bytes, to_signed
from unijax.sample.logits import GREEDY
from unijax.sample.pictures import grid
from unijax.sample.sampler import Sampler
from unijax.train.loop import Evaluator
from unijax.train.state import TrainState, evaluation_params
from unijax.train.writers import Writers

MAX_TOKENS = 48


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A held-out document up to where the model goes on.

    Attributes:
      document: what stands before.
      text: the same, as readable text.
      truth: what the document goes on with: its text, or its picture, uint8 [S, S, 3].
    """

    document: Document
    text: str
    truth: str | np.ndarray


def prompts(
    run: RunConfig, system: RowSystem, tokenizer: Tokenizer
) -> tuple[list[Prompt], list[Prompt]]:
    """Of the held-out sources, the first documents with a picture to draw, and with one to explain.

    `validation.samples` of each, taken from the sources in turn.
    """
    data = dataclasses.replace(
        run.data, groups=run.validation.groups, p_first_sentence=0.0, p_drop_condition=0.0
    )
    sources = list(open_sources(data, system.layout, tokenizer).values())
    draw, say = [], []
    for document in _in_turn(sources):
        cut = _cut(document, tokenizer, run, system)
        if cut is None:
            continue
        wanted = say if isinstance(cut.truth, str) else draw
        if len(wanted) < run.validation.samples:
            wanted.append(cut)
    return draw, say


def _in_turn(sources: list) -> Iterator[Document]:
    """One document of every source, then the next of every one, as far as the longest is likely
    to be of use: the sources may be endless."""
    for draw in range(64):
        for source in sources:
            if draw < source.epoch_length:
                yield source.document(draw)


def _cut(
    document: Document, tokenizer: Tokenizer, run: RunConfig, system: RowSystem
) -> Prompt | None:
    """The document as a prompt, or None where there is nothing to draw or to explain."""
    before: list = []
    for span in document.spans:
        seen = any(isinstance(s, ImageSpan) for s in before)
        if isinstance(span, ImageSpan) and system.maker and span.role == system.maker.role:
            if seen:
                return None  # held-out pictures are drawn from words alone
            truth = preparation(run.data, system.layout.by_role[span.role])(span.image)
            return _prompt(document, before, tokenizer, truth)
        if isinstance(span, TextSpan) and seen and any(span.weights):
            start = int(np.flatnonzero(span.weights)[0])
            ids = [i for i, w in zip(span.ids, span.weights) if w and i != tokenizer.special.eos]
            before.append(TextSpan(span.ids[:start], span.weights[:start]))
            return _prompt(document, before, tokenizer, tokenizer.decode(ids).strip())
        before.append(span)
    return None


def _prompt(document: Document, before: list, tokenizer: Tokenizer, truth) -> Prompt:
    spans = tuple(s for s in before if not isinstance(s, TextSpan) or s.ids)
    # The roles' own tokens are not decoded; what is left of them are colons.
    parts = [
        tokenizer.decode(s.ids).strip(" :\n") if isinstance(s, TextSpan) else "[image]"
        for s in spans
    ]
    return Prompt(Document(document.name, spans), " ".join(p for p in parts if p), truth)


def drawn_and_said(run: RunConfig, system: RowSystem, tokenizer: Tokenizer) -> Evaluator:
    """Greedy pictures beside the true ones as one grid, and greedy answers beside the true ones."""
    draw, say = prompts(run, system, tokenizer)
    documents = [p.document for p in draw]

    def evaluate(state: TrainState, step: int, writers: Writers) -> None:
        sampler = Sampler(
            system,
            evaluation_params(state),
            tokenizer,
            TEMPLATES[run.data.template],
            run.data.und_rounding,
        )
        if documents:
            drawn = sampler.show(sampler.make(documents, sampling=GREEDY))[:, 0]
            pairs = np.stack([drawn, np.stack([p.truth for p in draw])], axis=1)
            captions = [p.text for p in draw]
            writers.images(step, {"samples/drawn and true": grid(pairs, captions)})
        if say:
            answers = sampler.continue_documents([p.document for p in say], MAX_TOKENS)
            lines = [f"{p.text} -> {a} (true: {p.truth})" for p, a in zip(say, answers)]
            writers.texts(step, {f"samples/{i}": line for i, line in enumerate(lines)})

    return evaluate


def reconstructions(system: System, batch: ImageBatch, count: int) -> Evaluator:
    """The first pictures of a held-out batch beside what the tokenizer makes of them."""
    pixels = of_the_lead(np.asarray(batch.pixels[:count]))

    @jax.jit
    def rebuild(params, pixels):
        return to_bytes(system.rebuild(params, to_signed(pixels, system.dtype)))

    def evaluate(state: TrainState, step: int, writers: Writers) -> None:
        rebuilt = to_host(rebuild(evaluation_params(state), pixels))
        pairs = np.stack([rebuilt, pixels], axis=1)
        writers.images(step, {"samples/rebuilt and true": grid(pairs, [""] * len(pairs))})

    return evaluate

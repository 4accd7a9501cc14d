"""A trained system that draws and answers."""

import dataclasses
import itertools
import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from unijax.core.errors import UserError
from unijax.core.making import Codes, Features, InPlace, Maker, Queries, steps_of
from unijax.core.processes import to_host
from unijax.core.stream import Layout
from unijax.core.system import Params, RowSystem
from unijax.core.vocab import SpecialIds
from unijax.data.document import Document, ImageSpan, TextSpan, stable_hash
from unijax.data.render import with_sources
from unijax.data.templates import Template
from unijax.data.tokenizer import Tokenizer, check_vocab
from unijax.sample.decoding import bucket
from unijax.sample.image import draw_codes, draw_features, read, show
from unijax.sample.in_place import draw_latents
from unijax.sample.logits import GREEDY, Sampling
from unijax.sample.painting import paint
from unijax.sample.prompts import (
    Message,
    Prompting,
    conversation,
    drawing,
    unconditional,
    up_to_image,
    wordless,
)
from unijax.sample.queries import draw_with_queries
from unijax.sample.score import text_nll
from unijax.sample.text import stream_ids, write_ids

# Codes, int32 [prompts, n, N], vectors, float32 [prompts, n, N, F], or latents, float32 [prompts,
# n, h, w, C].
Made = np.ndarray

_LOG = logging.getLogger("unijax.sample")


class Sampler:
    """Draws pictures from prompts, and answers questions about pictures or without.

    What is drawn is a function of the seed, the prompt and the number of the picture alone: a
    prompt gives the same pictures in any company and any batch size. So are answers.

    Args:
      system: the recipe.
      params: its parameters.
      tokenizer: of its text.
      template: of conversations, as in training.
      rounding: of padded pictures, as in training (`data.images.for_understanding`).
      batch: pictures, or answers, that are made at once; their caches are in memory together.
      trained_length: tokens of a row in training; prompts beyond it are told. 0 where unknown.
      plain: whether a picture is drawn from its caption alone, as the tasks of `data.tasks.PLAIN`
        train it, not in the template's turns.
    """

    def __init__(
        self,
        system: RowSystem,
        params: Params,
        tokenizer: Tokenizer,
        template: Template,
        rounding: str = "floor",
        batch: int = 16,
        trained_length: int = 0,
        plain: bool = False,
    ):
        if batch < 1:
            raise UserError("batch", f"{batch}", "1 or more", "Change it.")
        check_vocab(tokenizer, system.vocab_size)
        self.system, self.tokenizer, self.template, self.batch = system, tokenizer, template, batch
        self.prompting = Prompting(system.layout, tokenizer.special, system.encoded, rounding)
        self.params = system.for_decoding(params)
        self._trained_length = trained_length
        self.plain = plain

    @property
    def maker(self) -> Maker:
        """How it draws. Raises a UserError for a system that makes no pictures."""
        if self.system.maker is None:
            name = type(self.system).__name__
            raise UserError(name, "it makes no pictures", "a system that does", "Choose another.")
        return self.system.maker

    def check_heard(self, sampling: Sampling, steps: int | None) -> None:
        """Raises a UserError for what a user chose and no picture of this system hangs on."""
        name, usual = type(self.system).__name__, Sampling()
        if steps is not None and steps_of(self.maker) is None:
            expected = f"none: {name} does not denoise"
            raise UserError("steps", f"{steps}", expected, "Leave it out.")
        chosen = dataclasses.asdict(sampling).items() - dataclasses.asdict(usual).items()
        if chosen and not isinstance(self.maker, Codes):
            found = ", ".join(f"{key} {value}" for key, value in sorted(chosen))
            expected = f"none: {name} draws no codes, which these are of"
            raise UserError("sampling", found, expected, "Leave it out.")

    @property
    def ends(self) -> tuple[int, ...]:
        """Ids that end a text: of its end, and of images that the system learned to begin."""
        marks = [stream.before for stream in self.system.layout.streams]
        names = ["eos", *(mark.name for mark in marks if mark is not None and mark.learned)]
        return tuple(getattr(self.tokenizer.special, name) for name in dict.fromkeys(names))

    def draw(
        self,
        prompts: Sequence[str],
        n: int = 1,
        guidance: float | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
        seed: int = 0,
        steps: int | None = None,
    ) -> UInt8[np.ndarray, "prompts n height width 3"]:
        """n pictures of every prompt. See `make`."""
        return self.show(self.made(prompts, n, guidance, sampling, seed, steps))

    def made(
        self,
        prompts: Sequence[str],
        n: int = 1,
        guidance: float | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
        seed: int = 0,
        steps: int | None = None,
        first: Sequence[int] | None = None,
    ) -> Made:
        """As `draw`, before there are pixels: codes or latents."""
        documents = [
            drawing(prompt, self.tokenizer, self.template, self.plain) for prompt in prompts
        ]
        return self.make(documents, n, guidance, sampling, seed, steps, first)

    def show(self, made: Made) -> UInt8[np.ndarray, "prompts n H W 3"]:
        """The pictures of codes or latents."""
        flat = made.reshape(-1, *made.shape[2:])
        part = self._image_tokenizer()
        shown = [
            to_host(show(self.system, part, flat[rows]))[: len(kept)]
            for rows, kept in _batches(np.arange(len(flat)), self.batch, "decoding", "picture")
        ]
        shown = np.concatenate(shown)
        return shown.reshape(*made.shape[:2], *shown.shape[1:])

    def rebuild(self, pixels: UInt8[np.ndarray, "n H W 3"]) -> UInt8[np.ndarray, "n H W 3"]:
        """What the image tokenizer alone makes of pictures: no drawn one can be better."""
        painted = getattr(self.system.maker, "painting", None) is not None
        part = self.params if painted else self._image_tokenizer()
        found = []
        for rows, kept in _batches(np.arange(len(pixels)), self.batch, "encoding", "picture"):
            some = read(self.system, part, pixels[rows])
            if painted:
                some = self._paint(some, rows.astype(np.uint32), None, None)
            found.append(to_host(some)[: len(kept)])
        return self.show(np.concatenate(found)[:, None])[:, 0]

    def make(
        self,
        documents: Sequence[Document],
        n: int = 1,
        guidance: float | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
        seed: int = 0,
        steps: int | None = None,
        first: Sequence[int] | None = None,
    ) -> Made:
        """Codes, or latents, of n pictures of every prompt; `show` makes pixels of them.

        Args: as of `make_and_keep`.
        """
        return self.make_and_keep(documents, n, guidance, sampling, seed, steps, first)[0]

    def make_and_keep(
        self,
        documents: Sequence[Document],
        n: int = 1,
        guidance: float | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
        seed: int = 0,
        steps: int | None = None,
        first: Sequence[int] | None = None,
    ) -> tuple[Made, Made]:
        """As `make`, and of each picture the tokens that it was written with.

        These differ where a picture is painted of vectors, which stand in the row.

        Args:
          documents: prompts, up to where the image begins.
          guidance: scale of classifier-free guidance; 1 draws without, at half the cost; None is
            the recipe's own.
          sampling: of codes; temperature 0 makes the n pictures of a prompt the same.
          seed: another seed, other pictures. A prompt that is given twice gives 2n pictures.
          steps: of denoising, where the recipe denoises; None is the recipe's own number.
          first: number of each prompt's first picture; None counts those of equal prompts here.

        Raises:
          UserError: no prompt, a prompt that is too long, or a number out of range.
        """
        maker = self.maker
        guidance = maker.guidance if guidance is None else guidance
        if not documents or n < 1:
            found = f"{len(documents)} with {n} pictures each"
            raise UserError("prompts", found, "1 or more of both", "Add one.")
        if not 0 <= guidance < math.inf:
            expected = "a number, 0 or more (1 is without)"
            raise UserError("guidance", f"{guidance}", expected, "Change it.")
        layout, special = self.system.layout, self.tokenizer.special
        wanted, seeds, seen = [], [], Counter()
        others: list[list[Document]] = [[] for _ in range(self._guided_by(documents, guidance))]
        for i, document in enumerate(documents):
            spans = with_sources(document.spans, layout)
            document = dataclasses.replace(document, spans=tuple(spans))
            asked = up_to_image(document, maker.role, layout, special)
            self._check_length(
                f"prompt {i}", self.prompting.length(asked), maker.tokens, maker.tokens
            )
            for other, free in zip(others, self._free(document, len(others))):
                other += [up_to_image(free, maker.role, layout, special)] * n
            name = _words(asked, layout, special)
            begin = seen[name] if first is None else first[i]
            seen[name] += n
            wanted += [asked] * n
            seeds += [stable_hash(seed, *name, "picture", begin + j) for j in range(n)]
        seeds = np.array(seeds, np.uint32)
        scale = jnp.float32(guidance) if others else None
        painting = getattr(maker, "painting", None)
        if painting is not None and painting.free == "zeros":
            others = []  # zeros need no prompt of their own
        made, kept_tokens = [], []
        for rows, kept in _batches(np.arange(len(wanted)), self.batch, "drawing", "picture"):
            prompts = [of[i] for of in (wanted, *others) for i in rows]
            prompt = self.prompting.batch(prompts)
            some, tokens = self._make(*prompt, seeds[rows], sampling.choice(), scale, steps)
            made.append(to_host(some)[: len(kept)])
            kept_tokens.append(to_host(tokens)[: len(kept)])
        shape = len(documents), n
        made, tokens = np.concatenate(made), np.concatenate(kept_tokens)
        return made.reshape(*shape, *made.shape[1:]), tokens.reshape(*shape, *tokens.shape[1:])

    def _guided_by(self, documents: Sequence[Document], guidance: float) -> int:
        """How many prompts each is guided away from: none, one, or where pictures are shown to a
        recipe that is guided by these too, two."""
        maker = self.system.maker
        shows = any(isinstance(s, ImageSpan) for d in documents for s in d.spans)
        if isinstance(maker, Queries) and shows:
            return 0 if guidance == 1 and maker.image_guidance == 1 else 2
        return int(guidance != 1)

    def _free(self, document: Document, count: int) -> list[Document]:
        """What a prompt is guided away from: itself without words, then without pictures too."""
        maker, layout = self.system.maker, self.system.layout
        if layout.by_role[maker.role].unconditional == "words":
            blacks = (False, True)[:count]
            return [wordless(document, self.tokenizer, self.template, b) for b in blacks]
        return [unconditional(document, maker.role, layout, self.tokenizer.special)] * count

    def _make(self, prompt, length, seeds, choice, guidance, steps):
        """What `show` takes, and the tokens of the rows."""
        system, maker = self.system, self.system.maker
        match maker:
            case InPlace():
                steps = maker.steps if steps is None else steps
                made = draw_latents(system, self.params, prompt, length, seeds, guidance, steps)
            case Queries():
                steps = maker.steps if steps is None else steps
                made = draw_with_queries(
                    system, self.params, prompt, length, seeds, guidance, steps
                )
            case Features(painting=None):
                made = draw_features(system, self.params, prompt, length, guidance)
            case Features():
                vectors = draw_features(system, self.params, prompt, length, None)
                return self._paint(vectors, seeds, guidance, steps), vectors[: len(seeds)]
            case Codes():
                made = draw_codes(system, self.params, prompt, length, seeds, choice, guidance)
        return made, made

    def _paint(self, vectors, seeds, guidance, steps):
        """Latents of vectors; behind those of the pictures stand those of no condition."""
        painting = self.system.maker.painting
        free = vectors[len(seeds) :] if len(vectors) > len(seeds) else None
        steps = painting.steps if steps is None else steps
        return paint(
            self.system, painting, self.params, vectors[: len(seeds)], free, seeds, guidance, steps
        )

    def _image_tokenizer(self) -> Params:
        group = self.system.maker.tokenizer
        return {group: self.params[group]}

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, int]]:
        """Of (context, continuation): summed nats of the continuation, and its tokens.

        The ids of a context are those that it has by itself, as in a prompt. A text without one
        that is longer than the model has positions for is scored in parts (`_windows`).
        """
        tokenizer, documents, owners = self.tokenizer, [], []
        size = self.system.max_positions - self.system.layout.begins
        for i, (context, text) in enumerate(pairs):
            for given, ids in _windows(tokenizer.encode(context), tokenizer.encode(text), size):
                spans = (
                    TextSpan(tuple(given), (0.0,) * len(given)),
                    TextSpan(tuple(ids), (1.0,) * len(ids)),
                )
                documents.append(Document(f"text {i}", spans))
                owners.append(i)
        lengths = [self.prompting.length(d) for d in documents]
        for i, (document, length) in enumerate(zip(documents, lengths)):
            if i == 0 or owners[i] != owners[i - 1]:  # the first part of a text is the longest
                self._check_length(document.name, length, 0, 0)
        found: list[tuple[float, int]] = [(0.0, 0)] * len(pairs)
        by_length = np.argsort(lengths, kind="stable")
        for rows, kept in _batches(by_length, self.batch, "scoring", "text"):
            batch = self.prompting.batch([documents[i] for i in rows])
            nats = to_host(text_nll(self.system, self.params, *batch))
            tokens = (batch[0].weight > 0).sum(axis=1)
            for i, row, count in zip(kept, nats, tokens):
                before, counted = found[owners[i]]
                more = float(row.sum(dtype=np.float64))
                found[owners[i]] = (before + more, counted + int(count))
        return found

    def answer(
        self,
        conversations: Sequence[Sequence[Message]],
        max_tokens: int = 256,
        sampling: Sampling = GREEDY,
        seed: int = 0,
    ) -> list[str]:
        """What the assistant says next in every conversation, to its end or to a picture.

        Args:
          conversations: turns `{"role": "user" | "assistant", "content": ...}`, a first one may be
            "system"; a content is a text, or a list of texts and pictures (encoded bytes, or uint8
            [height, width, 3]) in order. The last turn is the user's.
          max_tokens: an answer that is not finished by then is cut.
          seed: another seed, other answers, unless the temperature is 0.

        Raises:
          UserError: a picture that cannot be read, a conversation that is too long or does not end
            with the user, or a number out of range.
        """
        if not conversations:
            raise UserError("conversations", "none", "1 or more", "Ask something.")
        documents = [
            conversation(messages, self.tokenizer, self.template, f"conversation {i}")
            for i, messages in enumerate(conversations)
        ]
        return self.continue_documents(documents, max_tokens, sampling, seed)

    def stream(
        self,
        messages: Sequence[Message],
        max_tokens: int = 256,
        sampling: Sampling = GREEDY,
        seed: int = 0,
    ) -> Iterator[str]:
        """As `answer`, of one conversation, a piece of text at a time.

        Together they are the answer. Half of a character, or white space that may stand at the end,
        is kept until it is known what follows.
        """
        document = conversation(messages, self.tokenizer, self.template, "conversation")
        self.checked_length(document, max_tokens)
        prompt, lengths = self.prompting.batch([document])
        ends = self.ends
        rows = stream_ids(
            self.system, self.params, prompt, lengths, np.array(ends, np.int32),
            np.array([self._answer_seed(document, seed)], np.uint32), sampling.choice(), max_tokens,
            space=bucket(max_tokens),
        )  # fmt: skip
        said = ""
        for ids in rows:
            text = self.text(_until(ids[0][:max_tokens], ends)).rstrip("\ufffd").rstrip()
            if text.startswith(said) and len(text) > len(said):
                yield text[len(said) :]
                said = text
        whole = self.text(_until(ids[0][:max_tokens], ends))
        if whole != said:
            yield whole.removeprefix(said)

    def continue_documents(
        self,
        documents: Sequence[Document],
        max_tokens: int,
        sampling: Sampling = GREEDY,
        seed: int = 0,
    ) -> list[str]:
        """As `answer`, from prompts as documents: texts and pictures to understand."""
        for document in documents:
            self.checked_length(document, max_tokens)
        most = [max_tokens] * len(documents)
        ids = self.written(documents, most, self.ends, sampling, seed)
        return [self.text(row) for row in ids]

    def text(self, ids: Sequence[int]) -> str:
        """Of ids that were written, without the special ones that end them."""
        ended = len(ids) > 0 and ids[-1] in self.ends
        return self.tokenizer.decode(list(ids[: len(ids) - ended])).strip()

    def written(
        self,
        documents: Sequence[Document],
        most: Sequence[int],
        ends: Sequence[int],
        sampling: Sampling,
        seed: int,
    ) -> list[list[int]]:
        """Ids that go on after each document, up to the first of `ends`, which is among them, or as
        many as `most` says of each."""
        lengths = [self.prompting.length(document) for document in documents]
        seeds = np.array([self._answer_seed(d, seed) for d in documents], np.uint32)
        found: list[list[int]] = [[]] * len(documents)
        by_length = np.argsort(lengths, kind="stable")  # neighbours share a width
        for rows, kept in _batches(by_length, self.batch, "answering", "answer"):
            prompt, length = self.prompting.batch([documents[i] for i in rows])
            limit = max(most[i] for i in rows)  # what a row has too many of is cut
            ids = write_ids(
                self.system, self.params, prompt, length, np.array(ends, np.int32), seeds[rows],
                sampling.choice(), jnp.int32(limit), space=bucket(limit),
            )  # fmt: skip
            for i, row in zip(kept, to_host(ids)):
                found[i] = _until(row[: most[i]], ends)
        return found

    def room(self, document: Document) -> int:
        """How many more tokens the model has positions for."""
        return self.system.max_positions - self.prompting.length(document)

    def checked_length(self, document: Document, max_tokens: int) -> int:
        """Of a prompt for an answer."""
        if max_tokens < 1:
            raise UserError("max_tokens", f"{max_tokens}", "1 or more", "Change it.")
        length = self.prompting.length(document)
        self._check_length(document.name, length, max_tokens, 1)
        return length

    def _answer_seed(self, document: Document, seed: int) -> int:
        ids = [getattr(span, "ids", "image") for span in document.spans]
        return stable_hash(seed, *ids, "answer")

    def _check_length(self, where: str, prompt: int, more: int, sure: int) -> None:
        """Of a prompt that at most `more` tokens follow, and at least `sure`."""
        most = self.system.max_positions
        if prompt + more > most:
            raise UserError(
                where,
                f"{prompt} tokens before {more} that follow",
                f"{most} at most, which the model has positions for",
                "Shorten it.",
            )
        if 0 < self._trained_length < prompt + sure:
            _LOG.warning(
                "%s: %d tokens, and %d that follow: the model was trained on rows of %d tokens, "
                "and what goes beyond is likely to be worse",
                where, prompt, sure, self._trained_length,
            )  # fmt: skip


def _windows(given: list[int], ids: list[int], size: int) -> list[tuple[list[int], list[int]]]:
    """What stands before, and what is scored: at most `size` ids together.

    A longer text without a context is scored half a window at a time, behind the half before it,
    as long texts usually are (the strided perplexity of transformers' documentation).
    """
    if given or len(ids) <= size:
        return [(given, ids)]
    half = size // 2
    starts = range(size, len(ids), half)
    return [([], ids[:size]), *((ids[at + half - size : at], ids[at : at + half]) for at in starts)]


def _words(document: Document, layout: Layout, special: SpecialIds) -> tuple:
    """What a prompt says, with which its pictures are seeded: ids, and pictures by content."""
    start = () if layout.start is None else (getattr(special, layout.start),)
    words = [s.ids if isinstance(s, TextSpan) else (s.image.key,) for s in document.spans]
    return (*start, *itertools.chain.from_iterable(words))


def _batches(
    items: np.ndarray, size: int, verb: str, unit: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Items in batches, and the items of each batch that are not its filling.

    A short batch is filled with its last item to a power of two, so that few programs are compiled.
    """
    with tqdm(total=len(items), desc=verb, unit=unit, leave=False, disable=None) as bar:
        for at in range(0, len(items), size):
            kept = items[at : at + size]
            full = min(size, 1 << (len(kept) - 1).bit_length())
            yield np.pad(kept, (0, full - len(kept)), mode="edge"), kept
            bar.update(len(kept))


def _until(ids: np.ndarray, ends: Sequence[int]) -> list[int]:
    """The ids up to the first end."""
    (at,) = np.nonzero(np.isin(ids, ends))
    return ids[: at[0] + 1 if len(at) else len(ids)].tolist()

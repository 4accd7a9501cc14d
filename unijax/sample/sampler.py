"""A trained system that draws and answers."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt8
from tqdm import tqdm

from unijax.core.errors import UserError
from unijax.core.processes import to_host
from unijax.core.stream import Layout
from unijax.core.system import Params, RowSystem
from unijax.core.vocab import SpecialIds
from unijax.data.document import Document, TextSpan, stable_hash
from unijax.data.templates import Template
from unijax.data.tokenizer import Tokenizer, check_vocab
from unijax.sample.decoding import bucket
from unijax.sample.image import draw_codes, read_codes, show_codes
from unijax.sample.logits import GREEDY, Sampling
from unijax.sample.prompts import (
    Message,
    Prompting,
    conversation,
    drawing,
    unconditional,
    up_to_image,
)
from unijax.sample.text import write_ids


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
    """

    def __init__(
        self,
        system: RowSystem,
        params: Params,
        tokenizer: Tokenizer,
        template: Template,
        rounding: str = "floor",
        batch: int = 16,
    ):
        if batch < 1:
            raise UserError("batch", f"{batch}", "1 or more", "Change it.")
        check_vocab(tokenizer, system.vocab_size)
        self.system, self.tokenizer, self.template, self.batch = system, tokenizer, template, batch
        self._prompting = Prompting(system.layout, tokenizer.special, rounding)
        self._params = system.for_decoding(params)

    def draw(
        self,
        prompts: Sequence[str],
        n: int = 1,
        guidance: float | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
        seed: int = 0,
    ) -> UInt8[np.ndarray, "prompts n height width 3"]:
        """n pictures of every prompt. See `draw_codes`."""
        return self.show(self.draw_codes(prompts, n, guidance, sampling, seed))

    def show(self, codes: Int[np.ndarray, "prompts n N"]) -> UInt8[np.ndarray, "prompts n H W 3"]:
        """The pictures of codes."""
        flat = codes.reshape(-1, codes.shape[-1])
        vq = self._image_tokenizer()
        shown = [
            to_host(show_codes(self.system, vq, flat[rows]))[: len(kept)]
            for rows, kept in _batches(np.arange(len(flat)), self.batch, "decoding", "picture")
        ]
        shown = np.concatenate(shown)
        return shown.reshape(*codes.shape[:2], *shown.shape[1:])

    def rebuild(self, pixels: UInt8[np.ndarray, "n H W 3"]) -> UInt8[np.ndarray, "n H W 3"]:
        """What the tokenizer alone makes of pictures: no drawn one can be better."""
        vq = self._image_tokenizer()
        codes = [
            to_host(read_codes(self.system, vq, pixels[rows]))[: len(kept)]
            for rows, kept in _batches(np.arange(len(pixels)), self.batch, "encoding", "picture")
        ]
        return self.show(np.concatenate(codes)[:, None])[:, 0]

    def draw_codes(
        self,
        prompts: Sequence[str],
        n: int = 1,
        guidance: float | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
        seed: int = 0,
    ) -> Int[np.ndarray, "prompts n N"]:
        """Codes of n pictures of every prompt.

        Args:
          guidance: scale of classifier-free guidance; 1 draws without, at half the cost; None is
            the recipe's own.
          sampling: temperature 0 makes the n pictures of a prompt the same.
          seed: another seed, other pictures. A prompt that is given twice gives 2n pictures.

        Raises:
          UserError: no prompt, a prompt that is too long, or a number out of range.
        """
        documents = [drawing(prompt, self.tokenizer, self.template) for prompt in prompts]
        return self.draw_after(documents, n, guidance, sampling, seed)

    def draw_after(
        self,
        documents: Sequence[Document],
        n: int,
        guidance: float | None,
        sampling: Sampling,
        seed: int = 0,
    ) -> Int[np.ndarray, "prompts n N"]:
        """As `draw_codes`, from prompts as documents, up to where the image begins."""
        maker = self.system.maker
        guidance = maker.guidance if guidance is None else guidance
        if not documents or n < 1:
            found = f"{len(documents)} with {n} pictures each"
            raise UserError("prompts", found, "1 or more of both", "Add one.")
        if not 0 <= guidance < math.inf:
            expected = "a number, 0 or more (1 is without)"
            raise UserError("guidance", f"{guidance}", expected, "Change it.")
        layout, special = self.system.layout, self.tokenizer.special
        wanted, nothing, seeds, seen = [], [], [], Counter()
        for i, document in enumerate(documents):
            asked = up_to_image(document, maker.role, layout, special)
            self._check_length(f"prompt {i}", self._prompting.length(asked), maker.tokens)
            free = unconditional(document, maker.role, layout, special)
            free = up_to_image(free, maker.role, layout, special)
            name = _words(asked, layout, special)
            for _ in range(n):
                wanted.append(asked)
                nothing.append(free)
                seeds.append(stable_hash(seed, *name, "picture", seen[name]))
                seen[name] += 1
        seeds = np.array(seeds, np.uint32)
        codes = []
        for rows, kept in _batches(np.arange(len(wanted)), self.batch, "drawing", "picture"):
            prompts = [wanted[i] for i in rows]
            if guidance != 1:
                prompts += [nothing[i] for i in rows]
            some = draw_codes(
                self.system, self._params, *self._prompting.batch(prompts), seeds[rows],
                sampling.choice(), None if guidance == 1 else jnp.float32(guidance),
            )  # fmt: skip
            codes.append(to_host(some)[: len(kept)])
        return np.concatenate(codes).reshape(len(documents), n, -1)

    def _image_tokenizer(self) -> Params:
        group = self.system.maker.tokenizer
        return {group: self._params[group]}

    def answer(
        self,
        conversations: Sequence[Sequence[Message]],
        max_tokens: int = 256,
        sampling: Sampling = GREEDY,
        seed: int = 0,
    ) -> list[str]:
        """What the assistant says next in every conversation.

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

    def continue_documents(
        self,
        documents: Sequence[Document],
        max_tokens: int,
        sampling: Sampling = GREEDY,
        seed: int = 0,
    ) -> list[str]:
        """As `answer`, from prompts as documents: texts and pictures to understand."""
        if max_tokens < 1:
            raise UserError("max_tokens", f"{max_tokens}", "1 or more", "Change it.")
        lengths, seeds = [], []
        for document in documents:
            lengths.append(self._prompting.length(document))
            self._check_length(document.name, lengths[-1], max_tokens)
            ids = [getattr(span, "ids", "image") for span in document.spans]
            seeds.append(stable_hash(seed, *ids, "answer"))
        seeds, special = np.array(seeds, np.uint32), self.tokenizer.special
        answers: list[str] = [""] * len(documents)
        by_length = np.argsort(lengths, kind="stable")  # neighbours share a width
        for rows, kept in _batches(by_length, self.batch, "answering", "answer"):
            prompt, length = self._prompting.batch([documents[i] for i in rows])
            ids = write_ids(
                self.system, self._params, prompt, length, jnp.int32(special.eos), seeds[rows],
                sampling.choice(), jnp.int32(max_tokens), space=bucket(max_tokens),
            )  # fmt: skip
            for i, row in zip(kept, to_host(ids)[:, :max_tokens]):
                answers[i] = self.tokenizer.decode(_until(row, special.eos)).strip()
        return answers

    def _check_length(self, where: str, prompt: int, more: int) -> None:
        most = self.system.max_positions
        if prompt + more > most:
            raise UserError(
                where,
                f"{prompt} tokens before {more} that follow",
                f"{most} at most, which the model has positions for",
                "Shorten it.",
            )


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


def _until(ids: np.ndarray, eos: int) -> list[int]:
    """The ids before the first `eos`."""
    ids = ids.tolist()
    return ids[: ids.index(eos)] if eos in ids else ids

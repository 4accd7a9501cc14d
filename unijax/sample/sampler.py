"""A trained system that draws and answers."""

import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt8
from tqdm import tqdm

from unijax.core.errors import UserError
from unijax.core.processes import to_host
from unijax.core.system import Params
from unijax.data.document import Document, stable_hash
from unijax.data.templates import Template
from unijax.data.tokenizer import Tokenizer, check_vocab
from unijax.sample.decoding import bucket, for_decoding
from unijax.sample.image import draw_codes, read_codes, show_codes
from unijax.sample.logits import GREEDY, Sampling
from unijax.sample.prompts import (
    ImageInput,
    Message,
    batch_of,
    conversation,
    drawing_ids,
    length_of,
)
from unijax.sample.text import write_ids
from unijax.systems.janus import Janus

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
      rounding: of pictures to understand, as in training (`data.images.for_understanding`).
      batch: pictures, or answers, that are made at once; their caches are in memory together.
      trained_length: tokens of a row in training; prompts beyond it are told. 0 where unknown.
    """

    def __init__(
        self,
        system: Janus,
        params: Params,
        tokenizer: Tokenizer,
        template: Template,
        rounding: str = "floor",
        batch: int = 16,
        trained_length: int = 0,
    ):
        if batch < 1:
            raise UserError("batch", f"{batch}", "1 or more", "Change it.")
        check_vocab(tokenizer, system.config.text.vocab_size)
        self.system, self.tokenizer, self.template, self.batch = system, tokenizer, template, batch
        vision = system.config.vision
        self.image = ImageInput(vision.image_size, vision.num_tokens, rounding)
        self._params = for_decoding(system, params)
        self._trained_length = trained_length

    def draw(
        self,
        prompts: Sequence[str],
        n: int = 1,
        guidance: float = 5.0,
        sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
        seed: int = 0,
    ) -> UInt8[np.ndarray, "prompts n height width 3"]:
        """n pictures of every prompt. See `draw_codes`."""
        return self.show(self.draw_codes(prompts, n, guidance, sampling, seed))

    def show(self, codes: Int[np.ndarray, "prompts n N"]) -> UInt8[np.ndarray, "prompts n H W 3"]:
        """The pictures of codes."""
        flat = codes.reshape(-1, codes.shape[-1])
        vq = {"vqmodel": self._params["vqmodel"]}
        shown = [
            to_host(show_codes(self.system, vq, flat[rows]))[: len(kept)]
            for rows, kept in _batches(np.arange(len(flat)), self.batch, "decoding", "picture")
        ]
        shown = np.concatenate(shown)
        return shown.reshape(*codes.shape[:2], *shown.shape[1:])

    def rebuild(self, pixels: UInt8[np.ndarray, "n H W 3"]) -> UInt8[np.ndarray, "n H W 3"]:
        """What the tokenizer alone makes of pictures: no drawn one can be better."""
        vq = {"vqmodel": self._params["vqmodel"]}
        codes = [
            to_host(read_codes(self.system, vq, pixels[rows]))[: len(kept)]
            for rows, kept in _batches(np.arange(len(pixels)), self.batch, "encoding", "picture")
        ]
        return self.show(np.concatenate(codes)[:, None])[:, 0]

    def draw_codes(
        self,
        prompts: Sequence[str],
        n: int = 1,
        guidance: float = 5.0,
        sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
        seed: int = 0,
    ) -> Int[np.ndarray, "prompts n N"]:
        """Codes of n pictures of every prompt.

        Args:
          guidance: scale of classifier-free guidance; 1 draws without, at half the cost.
          sampling: temperature 0 makes the n pictures of a prompt the same.
          seed: another seed, other pictures. A prompt that is given twice gives 2n pictures.

        Raises:
          UserError: no prompt, a prompt that is too long, or a number out of range.
        """
        rows = [drawing_ids(prompt, self.tokenizer, self.template) for prompt in prompts]
        return self.draw_rows(rows, n, guidance, sampling, seed)

    def draw_rows(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        guidance: float,
        sampling: Sampling,
        seed: int = 0,
    ) -> Int[np.ndarray, "prompts n N"]:
        """As `draw_codes`, from prompts as ids, from begin-of-sequence to begin-of-image."""
        if not prompts or n < 1:
            found = f"{len(prompts)} with {n} pictures each"
            raise UserError("prompts", found, "1 or more of both", "Add one.")
        if not 0 <= guidance < math.inf:
            expected = "a number, 0 or more (1 is without)"
            raise UserError("guidance", f"{guidance}", expected, "Change it.")
        ids, seeds, seen = [], [], Counter()
        for i, row in enumerate(map(tuple, prompts)):
            codes = self.system.config.vq.num_tokens
            self._check_length(f"prompt {i}", len(row), codes, codes)
            for _ in range(n):
                ids.append(row)
                seeds.append(stable_hash(seed, *row, "picture", seen[row]))
                seen[row] += 1
        lengths = np.array([len(row) for row in ids], np.int32)
        width = bucket(int(lengths.max()))
        table = np.stack([np.pad(row, (width - len(row), 0)) for row in ids]).astype(np.int32)
        seeds = np.array(seeds, np.uint32)
        codes = []
        for rows, kept in _batches(np.arange(len(ids)), self.batch, "drawing", "picture"):
            some = draw_codes(
                self.system, self._params, table[rows], lengths[rows],
                jnp.int32(self.tokenizer.special.pad), seeds[rows], sampling.choice(),
                None if guidance == 1 else jnp.float32(guidance),
            )  # fmt: skip
            codes.append(to_host(some)[: len(kept)])
        return np.concatenate(codes).reshape(len(prompts), n, -1)

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
            lengths.append(length_of(document, self.image))
            self._check_length(document.name, lengths[-1], max_tokens, 1)
            ids = [getattr(span, "ids", "image") for span in document.spans]
            seeds.append(stable_hash(seed, *ids, "answer"))
        seeds, special = np.array(seeds, np.uint32), self.tokenizer.special
        answers: list[str] = [""] * len(documents)
        by_length = np.argsort(lengths, kind="stable")  # neighbours share a width
        for rows, kept in _batches(by_length, self.batch, "answering", "answer"):
            prompt, length = batch_of([documents[i] for i in rows], special, self.image)
            ids = write_ids(
                self.system, self._params, prompt, length, jnp.int32(special.eos), seeds[rows],
                sampling.choice(), jnp.int32(max_tokens), space=bucket(max_tokens),
            )  # fmt: skip
            for i, row in zip(kept, to_host(ids)[:, :max_tokens]):
                answers[i] = self.tokenizer.decode(_until(row, special.eos)).strip()
        return answers

    def _check_length(self, where: str, prompt: int, more: int, sure: int) -> None:
        """Of a prompt that at most `more` tokens follow, and at least `sure`."""
        most = self.system.config.text.max_position_embeddings
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

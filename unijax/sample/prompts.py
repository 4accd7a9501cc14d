"""What a user asks for, as ids: the same words around it as in training."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from unijax.core.batch import ImageSlots, PackedBatch
from unijax.core.errors import UserError
from unijax.core.vocab import SpecialIds
from unijax.data import images
from unijax.data.assemble import FIELDS, RowArrays, assemble
from unijax.data.document import Document, ImageRef, ImageTokens, document_size
from unijax.data.render import to_spans
from unijax.data.templates import Template
from unijax.data.tokenizer import Tokenizer
from unijax.sample.decoding import bucket

Message = dict[str, Any]  # "role", and "content": text, or a list of texts and pictures


def drawing_ids(prompt: str, tokenizer: Tokenizer, template: Template) -> list[int]:
    """From begin-of-sequence to begin-of-image, of a user who asks for a picture."""
    document = conversation([question(prompt)], tokenizer, template, f"prompt {prompt!r}")
    special = tokenizer.special
    ids = [i for span in document.spans for i in span.ids]
    return [special.bos, *ids, special.boi]


def conversation(
    messages: Sequence[Message], tokenizer: Tokenizer, template: Template, where: str
) -> Document:
    """A conversation up to where the assistant goes on.

    Args:
      messages: turns, the last of them the user's. A picture in a content is encoded bytes, or
        uint8 [height, width, 3].
      where: for messages of errors.

    Raises:
      UserError: no turn, an unknown role, or a last turn that is not the user's.
    """
    if not messages or messages[-1]["role"] != "user":
        found = f"a last turn of {messages[-1]['role']!r}" if messages else "no turn"
        raise UserError(where, found, "a conversation that ends with the user", "Add a question.")
    turns = [m | {"content": _content(m["content"], where)} for m in messages]
    turns.append({"role": "assistant", "content": ""})
    return Document(where, tuple(to_spans(template.render(turns, where), tokenizer)))


def question(text: str, pictures: Sequence[Any] = ()) -> Message:
    """A user's turn: pictures, then on a new line the text, as in training.

    Between pictures stands what the chat template of deepseek-community's checkpoints puts there.
    """
    if not pictures:
        return {"role": "user", "content": text}
    shown = [part for picture in pictures for part in ("\n\n", picture)][1:]
    return {"role": "user", "content": [*shown, "\n" + text]}


def _content(content: Any, where: str) -> Any:
    if isinstance(content, str):
        return content
    return [part if isinstance(part, str | ImageRef) else ImageRef(where, part) for part in content]


@dataclasses.dataclass(frozen=True)
class ImageInput:
    """How pictures are prepared for understanding.

    Attributes:
      size: side of the square, pixels.
      tokens: N of a picture.
      rounding: of the short side, see `data.images.for_understanding`.
      max_pixels: larger pictures are refused.
    """

    size: int
    tokens: int
    rounding: str = "floor"
    max_pixels: int = 50_000_000


def length_of(document: Document, image: ImageInput) -> int:
    """Tokens of a prompt."""
    return document_size(document, ImageTokens(und=image.tokens, gen=0)).tokens


def batch_of(
    documents: Sequence[Document], special: SpecialIds, image: ImageInput
) -> tuple[PackedBatch, np.ndarray]:
    """Prompts that end together, one a row, and their lengths, int32 [B].

    The width and the number of image slots are rounded up, so that few programs are compiled.

    Raises:
      UserError: a picture that cannot be read, or is too large.
    """
    lengths = np.array([length_of(d, image) for d in documents], np.int32)
    width = bucket(int(lengths.max()))
    sizes = ImageTokens(und=image.tokens, gen=0)
    rows = [assemble([document], width, special, sizes) for document in documents]
    fields = {
        name: np.stack([np.roll(getattr(row, name), width - n) for row, n in zip(rows, lengths)])
        for name in FIELDS
    }
    return PackedBatch(**fields, und=_slots(rows, image)), lengths


def _slots(rows: Sequence[RowArrays], image: ImageInput) -> ImageSlots | None:
    most = max(len(row.und) for row in rows)
    if not most:
        return None
    slots = 1 << (most - 1).bit_length()
    shape = (len(rows), slots)
    weight = np.zeros(shape, np.float32)
    pixels = np.zeros((*shape, image.size, image.size, 3), np.uint8)
    for i, row in enumerate(rows):
        for j, ref in enumerate(row.und):
            decoded = images.decode(ref.read(), ref.where, image.max_pixels)
            pixels[i, j] = images.for_understanding(decoded, image.size, image.rounding)
            weight[i, j] = 1
    return ImageSlots(weight=weight, seed=np.zeros(shape, np.uint32), pixels=pixels)

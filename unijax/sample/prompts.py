"""What a user asks for, as ids: the same words around it as in training."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from unijax.core.batch import ImageSlots, PackedBatch
from unijax.core.errors import UserError
from unijax.core.stream import Layout
from unijax.core.system import Encoded
from unijax.core.vocab import SpecialIds
from unijax.data.assemble import FIELDS, RowArrays, assemble
from unijax.data.document import Document, ImageRef, ImageSpan, TextSpan, document_size
from unijax.data.prepare import Preparation
from unijax.data.render import drop_condition, to_spans, without_pictures, without_words
from unijax.data.templates import Image, Piece, Template, Text
from unijax.data.tokenizer import Tokenizer
from unijax.sample.decoding import bucket

Message = dict[str, Any]  # "role", and "content": text, or a list of texts and pictures


def drawing(prompt: str, tokenizer: Tokenizer, template: Template, plain: bool = False) -> Document:
    """Of a user who asks for a picture, or plainly of its caption, up to where it begins."""
    where = f"prompt {prompt!r}"
    pieces = [Text(prompt)] if plain else template.asking(prompt, where)
    return Document(where, tuple(to_spans(pieces, tokenizer)))


def up_to_image(document: Document, role: str, layout: Layout, special: SpecialIds) -> Document:
    """The document with the mark that stands before an image of a role."""
    before = layout.by_role[role].before
    if before is None:
        return document
    mark = TextSpan((getattr(special, before.name),), (0.0,))
    return dataclasses.replace(document, spans=(*document.spans, mark))


def unconditional(document: Document, role: str, layout: Layout, special: SpecialIds) -> Document:
    """What stands before an image that nothing is said of, as training has it at times."""
    image = ImageSpan(role, ImageRef(document.name, b""))
    spans = [*document.spans, image]
    dropped = drop_condition(spans, len(spans) - 1, special.pad, layout)
    return dataclasses.replace(document, spans=tuple(dropped[:-1]))


def wordless(document: Document, tokenizer: Tokenizer, template: Template, black: bool) -> Document:
    """What stands before an image that nothing is said of, with the pictures shown, or black."""
    spans = without_pictures(document.spans) if black else document.spans
    asked = without_words(spans, tokenizer, template, document.name)
    return dataclasses.replace(document, spans=tuple(asked))


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
    turns = _turns(messages, where)
    turns.append({"role": "assistant", "content": ""})
    return Document(where, tuple(to_spans(template.render(turns, where), tokenizer)))


def continued(messages: Sequence[Message], tokenizer: Tokenizer, where: str) -> Document:
    """What the turns of a conversation hold, one behind another without roles, as captions stand
    before the pictures that are drawn of them.

    Args, Raises: as `conversation`.
    """
    pieces: list[Piece] = []
    for turn in _turns(messages, where):
        role = "gen" if turn["role"] == "assistant" else "und"
        content = turn["content"]
        for part in [content] if isinstance(content, str) else content:
            if not isinstance(part, str):
                pieces.append(Image(role, part))
            elif words := part.strip():
                apart = "\n\n" if pieces and isinstance(pieces[-1], Text) else ""
                pieces.append(Text(apart + words))
    return Document(where, tuple(to_spans(pieces, tokenizer)))


def _turns(messages: Sequence[Message], where: str) -> list[Message]:
    """With the pictures of their contents as references."""
    if not messages or messages[-1]["role"] != "user":
        found = f"a last turn of {messages[-1]['role']!r}" if messages else "no turn"
        raise UserError(where, found, "a conversation that ends with the user", "Add a question.")
    return [m | {"content": _content(m["content"], where)} for m in messages]


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
class Prompting:
    """How prompts become arrays.

    Attributes:
      layout: of the recipe.
      special: ids that rows contain.
      encoded: by array of slots, what those may carry in place of pixels.
      rounding: of the short side of padded pictures, see `data.images.for_understanding`.
      max_pixels: larger pictures are refused.

    Raises:
      UserError: a special token that the layout needs and the tokenizer lacks.
    """

    layout: Layout
    special: SpecialIds
    encoded: Mapping[str, Encoded] = dataclasses.field(default_factory=dict)
    rounding: str = "floor"
    max_pixels: int = 50_000_000

    def __post_init__(self):
        self.layout.check(self.special)

    def length(self, document: Document) -> int:
        """Tokens of a prompt."""
        return document_size(document, self.layout).tokens

    def batch(self, documents: Sequence[Document]) -> tuple[PackedBatch, np.ndarray]:
        """Prompts that end together, one a row, and their lengths, int32 [B].

        Of the pictures of an array of slots, all are encoded or none is.

        The width and the number of image slots are rounded up, so that few programs are compiled.

        Raises:
          UserError: a picture that cannot be read, or is too large.
        """
        lengths = np.array([self.length(d) for d in documents], np.int32)
        width = bucket(int(lengths.max()))
        rows = [assemble([document], width, self.special, self.layout) for document in documents]
        fields = {
            name: np.stack(
                [np.roll(getattr(row, name), width - n) for row, n in zip(rows, lengths)]
            )
            for name in FIELDS
        }
        found = {name: self._slots(rows, name) for name in self.layout.slots}
        images = {name: slots for name, slots in found.items() if slots is not None}
        return PackedBatch(**fields, images=images), lengths

    def _slots(self, rows: Sequence[RowArrays], name: str) -> ImageSlots | None:
        most = max(len(row.images[name]) for row in rows)
        if not most:
            return None
        shape = (len(rows), 1 << (most - 1).bit_length())
        weight = np.zeros(shape, np.float32)
        places = [(i, j, s) for i, row in enumerate(rows) for j, s in enumerate(row.images[name])]
        for i, j, _ in places:
            weight[i, j] = 1
        if places[0][2].image.name:
            how = self.encoded[name]
            field, values = how.field, np.zeros((*shape, *how.shape), how.dtype)
            for i, j, span in places:
                values[i, j] = span.image.read()
        else:
            size = self.layout.of_slots(name).size
            field, values = "pixels", np.zeros((*shape, size, size, 3), np.uint8)
            for i, j, span in places:
                values[i, j] = self.pixels(span)
        clean = np.zeros(shape, np.float32) if self.layout.has_noise(name) else None
        seed = np.zeros(shape, np.uint32)
        return ImageSlots(weight=weight, seed=seed, t_max=clean, **{field: values})

    def pixels(self, span: ImageSpan) -> UInt8[np.ndarray, "size size 3"]:
        """A picture, prepared as its stream says."""
        stream = self.layout.by_role[span.role]
        prepare = Preparation(stream.size, stream.resize, self.rounding, self.max_pixels)
        return prepare(span.image)

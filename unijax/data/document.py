"""Documents: what a record becomes before packing. Lengths are known without decoding a picture."""

import dataclasses
import functools
import hashlib
import operator
from collections.abc import Callable
from typing import Any

from unijax.core.batch import Target
from unijax.core.stream import Layout


@dataclasses.dataclass(frozen=True, eq=False)
class ImageRef:
    """A picture that has not been decoded.

    Attributes:
      where: the record, for messages.
      raw: encoded bytes; or pixels, uint8 [height, width, 3]; or a function that gives either, so
        that a process that only plans a row never reads the picture; or, where there is a `name`,
        what image slots carry in place of pixels.
      seed: uint32, a function of (run seed, document, epoch, image).
      name: of a picture that is encoded already: its key.
    """

    where: str
    raw: bytes | Any | Callable[[], Any]
    seed: int = 0
    name: str = ""

    def read(self) -> bytes | Any:
        """`raw`, or what it gives."""
        return self.raw() if callable(self.raw) else self.raw

    @functools.cached_property
    def key(self) -> str:
        """What cached features are filed under: SHA-1 of the bytes, or of the pixels and shape."""
        if self.name:
            return self.name
        content = self.read()
        if isinstance(content, bytes):
            return hashlib.sha1(content).hexdigest()
        return hashlib.sha1(repr(content.shape).encode() + content.tobytes()).hexdigest()


@dataclasses.dataclass(frozen=True)
class TextSpan:
    """Text ids, and for each its weight in the loss as the *answer* of the position before it."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]

    def __post_init__(self):
        assert len(self.ids) == len(self.weights), (len(self.ids), len(self.weights))


@dataclasses.dataclass(frozen=True)
class ImageSpan:
    """An image in a role that the recipe knows (`core.stream`), between the marks of its stream."""

    role: str
    image: ImageRef


Span = TextSpan | ImageSpan


@dataclasses.dataclass(frozen=True)
class Document:
    """Spans, behind the token that the layout begins documents with.

    That token is no span of its own: every part of a split document begins with one. The marks of
    an image belong to its span, so that no cut parts them.

    Attributes:
      name: source/epoch/index of the record, and the part if the document was split.
      spans: in order.
      where: the record, for messages.
    """

    name: str
    spans: tuple[Span, ...]
    where: str = ""

    @property
    def uid(self) -> int:
        """uint32 made from the name, never from the place in a row."""
        return stable_hash(self.name)


@dataclasses.dataclass(frozen=True)
class Size:
    """What a document takes of a row.

    Attributes:
      tokens: text, images and their marks, and what documents begin with.
      slots: image slots, in the order of `Layout.slots`.
    """

    tokens: int
    slots: tuple[int, ...]

    def __add__(self, other: "Size") -> "Size":
        added = map(operator.add, self.slots, other.slots)
        return Size(self.tokens + other.tokens, tuple(added))

    def within(self, limit: "Size") -> bool:
        return self.tokens <= limit.tokens and all(map(operator.le, self.slots, limit.slots))


def empty(layout: Layout) -> Size:
    """Of nothing."""
    return Size(0, (0,) * len(layout.slots))


def beginning(layout: Layout) -> Size:
    """Of a document without spans."""
    return Size(layout.begins, (0,) * len(layout.slots))


def span_size(span: Span, layout: Layout) -> Size:
    if isinstance(span, TextSpan):
        return Size(len(span.ids), (0,) * len(layout.slots))
    stream = layout.by_role[span.role]
    return Size(stream.length, tuple(int(name == stream.slots) for name in layout.slots))


def document_size(document: Document, layout: Layout) -> Size:
    """Size of a document, with what it begins with."""
    return sum((span_size(span, layout) for span in document.spans), start=beginning(layout))


def has_target(spans: tuple[Span, ...], layout: Layout) -> bool:
    """Whether anything of a document of these spans is learned. Its very first token never is."""

    def learned(span: Span, first: bool) -> bool:
        if isinstance(span, TextSpan):
            return any(span.weights[first:])
        stream = layout.by_role[span.role]
        marks = (None if first else stream.before, stream.after)
        return stream.target != Target.NONE or any(m is not None and m.learned for m in marks)

    return any(learned(s, first=not (i or layout.begins)) for i, s in enumerate(spans))


def stable_hash(*words: object) -> int:
    """uint32 that depends on the words alone: not on the process, nor on the version of Python."""
    digest = hashlib.blake2b("\0".join(map(str, words)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")

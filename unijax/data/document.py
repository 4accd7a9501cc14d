"""Documents: what a record becomes before packing. Lengths are known without decoding a picture."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from typing import Any

from unijax.core.batch import Kind

UND, GEN = int(Kind.UND), int(Kind.GEN)


@dataclasses.dataclass(frozen=True, eq=False)
class ImageRef:
    """A picture that has not been decoded.

    Attributes:
      where: the record, for messages.
      raw: encoded bytes; or pixels, uint8 [height, width, 3]; or a function that gives either, so
        that a process that only plans a row never reads the picture.
      seed: uint32, a function of (run seed, document, epoch, image).
    """

    where: str
    raw: bytes | Any | Callable[[], Any]
    seed: int = 0

    def read(self) -> bytes | Any:
        """Encoded bytes, or pixels."""
        return self.raw() if callable(self.raw) else self.raw

    @functools.cached_property
    def key(self) -> str:
        """What cached features are filed under: SHA-1 of the bytes, or of the pixels' and shape."""
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
class UndSpan:
    """An image to understand, between begin-of-image and end-of-image."""

    image: ImageRef


@dataclasses.dataclass(frozen=True)
class GenSpan:
    """An image to generate, between begin-of-image and end-of-image."""

    image: ImageRef


Span = TextSpan | UndSpan | GenSpan


@dataclasses.dataclass(frozen=True)
class Document:
    """A begin-of-sequence token, then spans.

    The token is no span of its own: every part of a split document begins with one. Begin and end
    of image belong to the span of the image, so that no cut parts them.

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
      tokens: begin-of-sequence, text, and images with their two marks.
      und: slots of the stream of images to understand.
      gen: slots of the stream of images to generate.
    """

    tokens: int
    und: int = 0
    gen: int = 0

    def __add__(self, other: "Size") -> "Size":
        return Size(self.tokens + other.tokens, self.und + other.und, self.gen + other.gen)

    def within(self, limit: "Size") -> bool:
        return self.tokens <= limit.tokens and self.und <= limit.und and self.gen <= limit.gen


@dataclasses.dataclass(frozen=True)
class ImageTokens:
    """N, the tokens of one image, in each stream."""

    und: int
    gen: int


def span_size(span: Span, images: ImageTokens) -> Size:
    match span:
        case TextSpan():
            return Size(len(span.ids))
        case UndSpan():
            return Size(images.und + 2, und=1)
        case GenSpan():
            return Size(images.gen + 2, gen=1)


def document_size(document: Document, images: ImageTokens) -> Size:
    """Size of a document, its begin-of-sequence token included."""
    return sum((span_size(span, images) for span in document.spans), start=Size(1))


def has_target(spans: tuple[Span, ...]) -> bool:
    """Whether anything in the spans is learned."""
    return any(
        isinstance(span, GenSpan) or (isinstance(span, TextSpan) and any(span.weights))
        for span in spans
    )


def stable_hash(*words: object) -> int:
    """uint32 that depends on the words alone: not on the process, nor on the version of Python."""
    digest = hashlib.blake2b("\0".join(map(str, words)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")

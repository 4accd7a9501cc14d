"""What a recipe asks of the data: the images of its rows by role, and how documents begin.

Plain data, which rooms interpret: `data/` lays rows by it, `sample/` prompts, `plan/` shapes.
"""

import dataclasses
import functools

from unijax.core.batch import Kind, Target
from unijax.core.errors import UserError
from unijax.core.vocab import SpecialIds

# How a picture becomes a square (`data.images`).
RESIZES = ("pad", "centre")

# What stands in place of the condition of an image, now and then (classifier-free guidance): as
# many pad ids, attended like any other; or nothing; or a conversation in which the user says
# nothing, though what he shows stays.
UNCONDITIONAL = ("pad", "empty", "words")


@dataclasses.dataclass(frozen=True)
class Mark:
    """A special token beside an image.

    Attributes:
      name: in `SpecialIds`.
      learned: whether it is an answer of the position before it.
      id: what the tokenizer has to call it, where the recipe has a vector for that id; else any.
    """

    name: str
    learned: bool = False
    # Not among what tells streams of rows apart: it follows from the tokenizer, which does.
    id: int | None = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass(frozen=True)
class Stream:
    """The images of one role.

    Attributes:
      role: what documents call it: "und" (to be read), "gen" (to be made).
      slots: the array of image slots that it fills, a key of `PackedBatch.images`; roles may share
        one.
      kind: of the input at its positions.
      tokens: N, positions of an image.
      size: side of the square picture, pixels.
      resize: how a picture becomes that square: "pad" keeps all of it, "centre" crops the long
        side.
      before, after: marks of an image; None for none.
      target: what the answers of an image are; NONE for a role that is only read.
      answers: the positions that answer are those from `first` to before `N + last`, counted from
        the image's first: (-1, -1) begins at the mark before it and ends before its last token,
        (0, 0) is every token itself. Each answers with the next token; of noise, with its own.
      t_max: largest noise of an image, of targets NOISE: 1 for all, 0 for clean ones.
      unconditional: what replaces all before the image, to learn it without a condition.
    """

    role: str
    slots: str
    kind: Kind
    tokens: int
    size: int
    resize: str = "centre"
    before: Mark | None = Mark("boi")
    after: Mark | None = Mark("eoi")
    target: Target = Target.NONE
    answers: tuple[int, int] = (-1, -1)
    t_max: float = 1.0
    unconditional: str = "pad"

    def __post_init__(self):
        assert self.resize in RESIZES, self
        assert self.unconditional in UNCONDITIONAL, self
        if self.target == Target.NONE:
            return
        first, last = self.answers
        # Positions of its own, marks included, with answers that are of this image.
        assert -(self.before is not None) <= first < self.tokens + last, self
        assert -self.shift <= first, self
        assert last <= -self.shift, self
        # A position has one answer: where the last token is its own, nothing learned stands behind.
        assert last < 0 or (self.after is not None and not self.after.learned), self

    @property
    def shift(self) -> int:
        """How many positions behind the one that answers the token stands that is its answer."""
        return int(self.target != Target.NOISE)

    @property
    def length(self) -> int:
        """Positions of an image with its marks."""
        return self.tokens + (self.before is not None) + (self.after is not None)


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the documents of a recipe are laid out in rows.

    Attributes:
      streams: by role, each once; those that share slots agree in tokens and size.
      start: name of the special token that every document, and every part of a split one, begins
        with; None for none.
    """

    streams: tuple[Stream, ...] = ()
    start: str | None = "bos"

    def __post_init__(self):
        assert len(self.by_role) == len(self.streams), self
        for one in self.streams:
            first = self.of_slots(one.slots)
            assert (one.tokens, one.size) == (first.tokens, first.size), (one, first)

    @functools.cached_property
    def by_role(self) -> dict[str, Stream]:
        return {stream.role: stream for stream in self.streams}

    @functools.cached_property
    def slots(self) -> tuple[str, ...]:
        """The arrays of image slots, in the order of the streams."""
        return tuple(dict.fromkeys(stream.slots for stream in self.streams))

    def of_slots(self, slots: str) -> Stream:
        """The first stream that fills an array of slots."""
        return next(stream for stream in self.streams if stream.slots == slots)

    def has_noise(self, slots: str) -> bool:
        """Whether images of an array of slots are noised in training."""
        return any(s.slots == slots and s.target == Target.NOISE for s in self.streams)

    @property
    def begins(self) -> int:
        """Tokens at the beginning of every document: 1 or 0."""
        return int(self.start is not None)

    @property
    def special(self) -> tuple[str, ...]:
        """The special tokens that rows contain besides those of templates, each once."""
        marks = [m.name for s in self.streams for m in (s.before, s.after) if m is not None]
        dropped = [s.unconditional for s in self.streams if s.target and s.unconditional == "pad"]
        return tuple(dict.fromkeys([*([self.start] if self.start else []), *marks, *dropped]))

    def check(self, special: SpecialIds) -> None:
        """Raises a UserError where a tokenizer lacks a special token that rows contain."""
        if missing := [name for name in self.special if getattr(special, name, None) is None]:
            raise UserError(
                "special_tokens.json",
                f"no token for {', '.join(missing)}",
                f"one for each of {', '.join(self.special)}, which rows of this system contain",
                "Name them in that file, beside the tokenizer.",
            )
        for mark in (m for s in self.streams for m in (s.before, s.after) if m is not None):
            if mark.id not in (None, found := getattr(special, mark.name)):
                raise UserError(
                    "special_tokens.json",
                    f"{mark.name} with the id {found}",
                    f"{mark.id}, which this system has a vector for",
                    "Take the tokenizer of the model, or change model.marks.",
                )

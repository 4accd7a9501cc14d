"""Composed scenes: sprites on plain backgrounds, made on the fly from a seed.

A scene is a function of (seed, sprites, config). Its captions and answers are exact, because they
are written from the same plan as the picture: counts, positions and relations are known. Scenes do
not repeat: another seed or index is another scene.

For tests of composition a share of the (thing, count) and (thing, position) pairs, chosen by hash,
at most one of each for a thing, is held out: in training no picture shows them, in the split
'composition' every caption names one.
"""

import dataclasses
import functools
import random

import numpy as np

from unijax.core.errors import UserError
from unijax.data.document import stable_hash
from unijax.data.scene_text import PLACES, POSITIONS, Seen, captions, questions
from unijax.data.sprites import Sprite, load_sprites

COLOURS = {
    "white": (250, 250, 250),
    "black": (28, 28, 32),
    "gray": (150, 152, 156),
    "red": (206, 54, 52),
    "orange": (242, 146, 48),
    "yellow": (250, 216, 84),
    "green": (84, 164, 92),
    "blue": (62, 112, 206),
    "purple": (136, 88, 186),
    "pink": (246, 168, 200),
    "brown": (126, 86, 58),
}
LAYOUTS = ("count", "pair", "relation", "position")
DRAWS = 2000  # about one in 16 is what composition asks for
SPLITS = ("train", "validation", "test", "composition")


@dataclasses.dataclass(frozen=True)
class SceneConfig:
    """What scenes are drawn.

    Attributes:
      size: side of the picture, pixels.
      shares: of the layouts: 'count' (some of one thing), 'pair' (some of two things), 'relation'
        (one thing beside or above another), 'position' (one thing in a ninth of the picture).
      max_objects: things in a picture at most, 1 to 9.
      held_out: share of the (thing, count) and (thing, position) pairs kept from training.
      jitter: largest change of each channel of the background's colour.
      questions: questions with a scene.
    """

    size: int = 64
    shares: tuple[float, float, float, float] = (0.35, 0.25, 0.25, 0.15)
    max_objects: int = 4
    held_out: float = 0.1
    jitter: int = 6
    questions: int = 3

    def __post_init__(self):
        bounds = {
            "size": (32, 1024),
            "max_objects": (2, 9),
            "held_out": (0, 1 / 9),
            "jitter": (0, 12),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not low <= value <= high:
                expected = f"a number from {low} to {high}"
                raise UserError(f"scenes.{name}", repr(value), expected, "Change it.")
        if len(self.shares) != len(LAYOUTS) or min(self.shares) < 0 or sum(self.shares) <= 0:
            expected = f"shares, not all zero, of {', '.join(LAYOUTS)}"
            raise UserError("scenes.shares", repr(self.shares), expected, "Change them.")


@dataclasses.dataclass(frozen=True)
class Thing:
    """A sprite at its place: box [left, right) x [top, bottom) in pixels."""

    sprite: Sprite
    side: int
    left: int
    top: int
    right: int
    bottom: int

    def position(self, size: int) -> str:
        """The ninth of the picture that holds the middle of the box."""
        row = 3 * (self.top + self.bottom) // (2 * size)
        column = 3 * (self.left + self.right) // (2 * size)
        return POSITIONS[row][column]


@functools.cache
def held_out(kind: str, name: str, values: tuple, share: float):
    """The one value that training never shows of a thing, or None where it shows them all.

    Of all (name, value) pairs about the given share is held out, and no name loses two values.
    """
    point = stable_hash("scene", kind, name) / 2**32
    return values[int(point / share)] if point < share * len(values) else None


@functools.cache
def _backgrounds(sprite: Sprite) -> frozenset[str]:
    return frozenset(name for name, rgb in COLOURS.items() if sprite.is_visible_on(rgb))


class _Draw:
    """Random choices from a seed, the same for every version of Python and numpy."""

    def __init__(self, *seed: object):
        self._random = random.Random("/".join(map(str, seed))).random

    def within(self, low: int, high: int) -> int:
        """A whole number from low to high, both included; low where high is less."""
        return low + int(self._random() * max(1, high - low + 1))

    def one(self, items):
        return items[int(self._random() * len(items))]

    def some(self, items, count: int) -> list:
        """`count` different items in random order."""
        items = list(items)
        for i in range(count):
            j = i + int(self._random() * (len(items) - i))
            items[i], items[j] = items[j], items[i]
        return items[:count]

    def weighted(self, items, weights):
        point = self._random() * sum(weights)
        for item, weight in zip(items, weights):
            point -= weight
            if point < 0:
                return item
        return items[-1]


def _place(draw: _Draw, sprite: Sprite, side: int, cell: tuple[int, int, int, int]) -> Thing:
    """Puts a sprite somewhere in a cell (left, top, right, bottom) that it fits into."""
    height, width = sprite.scaled(side).clear.shape[:2]
    left = draw.within(cell[0], cell[2] - width)
    top = draw.within(cell[1], cell[3] - height)
    return Thing(sprite, side, left, top, left + width, top + height)


def _side(draw: _Draw, low: float, high: float, size: int) -> int:
    """A length between two shares of the picture, in 32nds of it: few sizes to cache."""
    step = size // 32
    return step * draw.within(round(low * size / step), round(high * size / step))


def _scatter(draw: _Draw, sprites: list[Sprite], size: int) -> list[Thing]:
    """Places sprites in different cells of the smallest square grid that holds them."""
    grid = next(g for g in (1, 2, 3) if g * g >= len(sprites))
    low, high = {1: (0.44, 0.75), 2: (0.34, 0.47), 3: (0.25, 0.31)}[grid]
    cells = [(row, column) for row in range(grid) for column in range(grid)]
    things = []
    for sprite, (row, column) in zip(sprites, draw.some(cells, len(sprites))):
        box = [size * k // grid for k in (column, row, column + 1, row + 1)]
        things.append(_place(draw, sprite, _side(draw, low, high, size), tuple(box)))
    return things


def _relate(draw: _Draw, sprites: list[Sprite], size: int) -> tuple[list[Thing], str]:
    """Two things in two halves of the picture, about level; and how the first is to the second."""
    relation = draw.one(("left", "right", "above", "below"))
    side = _side(draw, 0.34, 0.44, size)
    level = draw.within(side // 2 + size // 16, size - side // 2 - size // 16)
    starts = (0, size // 2) if relation in ("left", "above") else (size // 2, 0)
    things = []
    for sprite, start in zip(sprites, starts):
        height, width = sprite.scaled(side).clear.shape[:2]
        along, across = (width, height) if relation in ("left", "right") else (height, width)
        place = [
            draw.within(start, start + size // 2 - along),
            level - across // 2 + draw.within(-(size // 32), size // 32),
        ]
        left, top = place if relation in ("left", "right") else reversed(place)
        things.append(Thing(sprite, side, left, top, left + width, top + height))
    return things, relation


def _pin(draw: _Draw, sprite: Sprite, size: int) -> Thing:
    """One thing with its middle well inside one ninth of the picture."""
    side = _side(draw, 0.28, 0.41, size)
    height, width = sprite.scaled(side).clear.shape[:2]
    start = []
    for length in (width, height):
        ninth = draw.within(0, 2)
        low = max(size * ninth // 3 + size // 16 - length // 2, 0)
        high = min(size * (ninth + 1) // 3 - size // 16 - length // 2, size - length)
        start.append(draw.within(low, high))
    return Thing(sprite, side, *start, start[0] + width, start[1] + height)


def _plan(
    draw: _Draw, sprites: tuple[Sprite, ...], config: SceneConfig
) -> tuple[Seen, list[Thing]]:
    """Draws what is seen, by name, and where each thing stands."""
    layout = draw.weighted(LAYOUTS, config.shares)
    first, second = draw.some(sprites, 2)
    relation, counts = None, {first: 1}
    if layout == "count":
        counts = {first: draw.within(1, config.max_objects)}
        things = _scatter(draw, [first] * counts[first], config.size)
    elif layout == "pair":
        counts = {first: draw.within(1, config.max_objects - 1)}
        counts[second] = draw.within(1, config.max_objects - counts[first])
        each = [first] * counts[first] + [second] * counts[second]
        things = _scatter(draw, each, config.size)
    elif layout == "relation":
        counts = {first: 1, second: 1}
        things, relation = _relate(draw, [first, second], config.size)
    else:
        things = [_pin(draw, first, config.size)]
    clear = [c for c in COLOURS if all(c in _backgrounds(sprite) for sprite in counts)]
    colour = draw.one(clear or list(COLOURS))
    position = things[0].position(config.size) if layout == "position" else None
    return Seen(colour, counts, relation, position), things


def _held_out(seen: Seen, things: list[Thing], config: SceneConfig) -> tuple[list, bool]:
    """The held-out pairs that the captions name, and whether the picture shows any at all."""
    share, counts = config.held_out, tuple(range(2, config.max_objects + 1))
    counted = [
        ("count", sprite.singular, n)
        for sprite, n in seen.counts.items()
        if held_out("count", sprite.singular, counts, share) == n
    ]
    placed = [
        ("position", thing.sprite.singular, position)
        for thing in things
        for position in [thing.position(config.size)]
        if held_out("position", thing.sprite.singular, tuple(PLACES), share) == position
    ]
    return counted + (placed if seen.position else []), bool(counted or placed)


def _truth(seen: Seen, things: list[Thing], named: list, rgb: list[int], size: int) -> dict:
    return {
        "background": seen.colour,
        "background_rgb": rgb,
        "counts": {sprite.singular: n for sprite, n in seen.counts.items()},
        "relation": seen.relation,
        "position": seen.position,
        "objects": [
            {
                "name": thing.sprite.singular,
                "concept": thing.sprite.concept,
                "box": [thing.left, thing.top, thing.right, thing.bottom],
                "position": thing.position(size),
            }
            for thing in things
        ],
        "held_out": [list(pair) for pair in named],
    }


def scene(
    seed: object, sprites: tuple[Sprite, ...], config: SceneConfig, composition: bool = False
) -> dict:
    """One scene: a pure function of its arguments.

    Args:
      seed: anything with a fixed `str`.
      sprites: what may be shown, at least two.
      config: how.
      composition: False shows no held-out pair; True names at least one in every caption.

    Returns:
      A record: 'image' uint8 [size, size, 3], 'captions', 'questions', and 'truth': background,
      counts by name, relation of the first thing to the second ('left', 'right', 'above', 'below'
      or None), position of a single thing (or None), objects in order with their boxes [left, top,
      right, bottom) and ninths, and the held-out pairs that the captions name.
    """
    draw = _Draw(seed)
    for _ in range(DRAWS):
        seen, things = _plan(draw, sprites, config)
        named, any_held = _held_out(seen, things, config)
        if bool(named) if composition else not any_held:
            break
    else:
        expected = "sprites and shares that allow what the split asks for"
        raise UserError(
            "scenes", f"no scene in {DRAWS} draws with {config}", expected, "Change them."
        )
    jitter = (draw.within(-config.jitter, config.jitter) for _ in range(3))
    rgb = [min(255, value + change) for value, change in zip(COLOURS[seen.colour], jitter)]
    image = np.empty((config.size, config.size, 3), np.uint8)
    image[:] = rgb
    for thing in things:
        thing.sprite.scaled(thing.side).paint(image, thing.left, thing.top)
    absent = next(s for s in draw.some(sprites, 3) if s not in seen.counts)
    return {
        "image": image,
        "captions": captions(seen),
        "questions": draw.some(asked := questions(seen, absent), min(config.questions, len(asked))),
        "truth": _truth(seen, things, named, rgb, config.size),
    }


class Scenes:
    """Random access to the scenes of a split: `len(s)`, and `s[i]` gives a record.

    Splits: 'train', 'validation' and 'test' differ by seed only; 'composition' names what they
    never show. All draw the sprites of the train concepts unless others are given.
    """

    def __init__(
        self,
        split: str = "train",
        seed: int = 0,
        config: SceneConfig | None = None,
        sprites: tuple[Sprite, ...] | None = None,
        length: int = 2**30,
    ):
        if split not in SPLITS:
            expected = f"one of {', '.join(SPLITS)}"
            raise UserError("split of scenes", repr(split), expected, "Choose one of them.")
        self._split, self._seed, self._length = split, seed, length
        self._config = SceneConfig() if config is None else config
        self._sprites = load_sprites("train") if sprites is None else sprites

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict:
        index = int(index)
        if not 0 <= index < self._length:
            raise IndexError(f"scene {index} of {self._length}")
        name = f"scene-{self._split}-{self._seed}-{index}"
        record = scene(name, self._sprites, self._config, self._split == "composition")
        return {"id": name, **record}

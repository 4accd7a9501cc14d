"""Sprites: emoji with simple countable names, cut out, ready to be laid on a background."""

import csv
import dataclasses
import functools
import io

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image

from unijax.core.paths import assets_dir
from unijax.data.builders.shards import read_shards

CLOSE = 60  # grey values: a sprite's pixel nearer than this to the background is hard to see


@dataclasses.dataclass(frozen=True, eq=False)
class Sprite:
    """A picture of one thing without its empty margin.

    Attributes:
      singular, plural: its name.
      concept: the concept of the emoji that it is from.
      rgba: uint8 [height, width, 4].
    """

    singular: str
    plural: str
    concept: str
    rgba: UInt8[np.ndarray, "height width 4"]

    @functools.cache  # noqa: B019 -- sprites live as long as the program
    def scaled(self, side: int) -> "Scaled":
        """The sprite with its longer side `side` pixels long."""
        height, width = self.rgba.shape[:2]
        scale = side / max(height, width)
        shape = max(1, round(width * scale)), max(1, round(height * scale))
        resized = Image.fromarray(self.rgba).resize(shape, Image.Resampling.LANCZOS)
        pixels = np.asarray(resized).astype(np.uint16)
        return Scaled(pixels[..., :3] * pixels[..., 3:], 255 - pixels[..., 3:])

    def is_visible_on(self, rgb: tuple[int, int, int]) -> bool:
        """Whether most of the sprite differs clearly from a plain background."""
        distance = np.abs(self.rgba[..., :3].astype(int) - rgb).max(-1)
        return bool((distance[self.rgba[..., 3] > 128] > CLOSE).mean() > 0.6)


@dataclasses.dataclass(frozen=True)
class Scaled:
    """A sprite at one size: colour times opacity, and 255 less opacity."""

    colour: UInt16[np.ndarray, "height width 3"]
    clear: UInt16[np.ndarray, "height width 1"]

    def paint(self, canvas: UInt8[np.ndarray, "size size 3"], left: int, top: int) -> None:
        """Lays the sprite on the canvas in place."""
        height, width = self.clear.shape[:2]
        under = canvas[top : top + height, left : left + width]
        # At most 255 * 255 + 127, which uint16 holds.
        under[:] = (self.colour + under * self.clear + np.uint16(127)) // np.uint16(255)


@functools.cache
def load_sprites(*splits: str) -> tuple[Sprite, ...]:
    """The sprites listed in `assets/emoji/countable.csv` whose emoji are in the splits, decoded.

    Raises UserError where the shipped emoji are missing or damaged.
    """
    folder = assets_dir() / "emoji"
    with (folder / "countable.csv").open(newline="") as file:
        names = {row["label"]: row for row in csv.DictReader(file)}
    sprites = []
    for record, read in read_shards(folder):
        row = names.get(record["label"])
        if row and record["split"] in splits:
            picture = Image.open(io.BytesIO(read(record["file"]))).convert("RGBA")
            box = picture.getchannel("A").point(lambda alpha: 255 * (alpha > 16)).getbbox()
            rgba = np.asarray(picture.crop(box))
            sprites.append(Sprite(row["singular"], row["plural"], record["concept"], rgba))
    return tuple(sprites)

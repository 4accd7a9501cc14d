"""Finds the sprites of composed scenes in a picture, to count and to locate what was drawn.

Every sprite is tried at every size and place. Let D be the picture less its plain background, and T
the sprite less the same background where it is opaque. Explaining a part of the picture by a sprite
lowers the squared error by `gain = 2 <D, T> - <T, T>`: a correlation, computed for all places by
Fourier transform. The sprite that lowers it most is taken, its place is cleared, and so on until
none explains at least a share of its own energy. It knows these sprites and nothing else: it is a
measure for pictures made of them, drawn or real.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Complex, Float, Int, UInt8

from unijax.data.scene_text import POSITIONS
from unijax.data.scenes import COLOURS
from unijax.data.sprites import Sprite

SHARE = 0.5  # of a sprite's energy that its place must show
MOST = 12  # things in a picture
_OPAQUE = 0.1


@dataclasses.dataclass(frozen=True)
class Found:
    """A sprite in a picture: box [left, top, right, bottom) in pixels.

    Attributes:
      share: of the sprite's energy that its place shows, 1 for the sprite itself.
    """

    name: str
    box: tuple[int, int, int, int]
    share: float

    @property
    def middle(self) -> tuple[float, float]:
        """Column and row."""
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2

    def position(self, size: int) -> str:
        """The ninth of the picture that holds the middle."""
        column, row = (min(2, int(3 * x / size)) for x in self.middle)
        return POSITIONS[row][column]


def background(picture: UInt8[np.ndarray, "size size 3"]) -> Float[np.ndarray, "3"]:
    """The colour that most of the picture has, 0..255."""
    pixels = picture.reshape(-1, 3).astype(np.float32)
    coarse, counts = np.unique(pixels // 24, axis=0, return_counts=True)
    middle = coarse[counts.argmax()] * 24 + 12
    near = np.abs(pixels - middle).max(1) < 24
    return np.median(pixels[near], axis=0)


def colour_name(rgb: Float[np.ndarray, "3"]) -> str:
    """The nearest of the colours of backgrounds."""
    return min(COLOURS, key=lambda name: float(np.square(rgb - np.array(COLOURS[name])).sum()))


class SpriteDetector:
    """Finds some sprites in pictures of one size.

    Args:
      sprites: what may be found.
      size: side of the pictures.
      sides: longest sides, in pixels, that are tried; by default those that scenes use.
    """

    def __init__(self, sprites: Sequence[Sprite], size: int, sides: Sequence[int] = ()):
        step = size // 32
        sides = sides or range(8 * step, 24 * step + 1, step)
        self._sprites, self._size = sprites, size
        self._which, boxes, colour, opacity = [], [], [], []
        for i, sprite in enumerate(sprites):
            for side in sides:
                scaled = sprite.scaled(side)
                height, width = scaled.clear.shape[:2]
                rest = ((0, size - height), (0, size - width), (0, 0))
                self._which.append(i)
                boxes.append((height, width))
                colour.append(np.pad(scaled.colour / np.float32(255 * 255), rest))
                opacity.append(np.pad(1 - scaled.clear / np.float32(255), rest))
        self._boxes = np.array(boxes, np.int32)
        colour, opacity = np.stack(colour), np.stack(opacity)[..., 0]
        self._opaque = opacity > _OPAQUE
        self._templates = (
            jnp.fft.rfft2(jnp.asarray(colour.transpose(0, 3, 1, 2))),
            jnp.fft.rfft2(jnp.asarray(opacity)),
            jnp.asarray((colour**2).sum((1, 2, 3))),
            jnp.asarray((colour * opacity[..., None]).sum((1, 2))),
            jnp.asarray((opacity**2).sum((1, 2))),
            jnp.asarray(self._boxes),
        )

    def find(self, picture: UInt8[np.ndarray, "size size 3"]) -> list[Found]:
        """The sprites of a picture, the one that explains most first."""
        ground = background(picture) / 255
        rest = (picture.astype(np.float32) / 255 - ground).astype(np.float32)
        found = []
        for _ in range(MOST):
            best = _best(*self._templates, jnp.asarray(rest), jnp.asarray(ground, jnp.float32))
            template, top, left, share = (x.item() for x in best)
            if template < 0:
                break
            height, width = self._boxes[template].tolist()
            here = slice(top, top + height), slice(left, left + width)
            rest[here][self._opaque[template, :height, :width]] = 0
            name = self._sprites[self._which[template]].singular
            found.append(Found(name, (left, top, left + width, top + height), share))
        return found


@jax.jit
def _best(
    colour: Complex[Array, "n 3 size half"],
    opacity: Complex[Array, "n size half"],
    colour2: Float[Array, "n"],
    colour_opacity: Float[Array, "n 3"],
    opacity2: Float[Array, "n"],
    boxes: Int[Array, "n 2"],
    rest: Float[Array, "size size 3"],
    ground: Float[Array, "3"],
) -> tuple[Array, Array, Array, Array]:
    """Template, top, left and share of the sprite with the largest gain; template -1 for none.

    A template is `colour - opacity * ground`, with colour multiplied by opacity.
    """
    energy = colour2 - 2 * colour_opacity @ ground + opacity2 * jnp.sum(ground**2)
    seen = jnp.fft.rfft2(rest.transpose(2, 0, 1))
    product = jnp.einsum("ncyx,cyx->nyx", colour.conj(), seen)
    product -= opacity.conj() * jnp.einsum("c,cyx->yx", ground, seen)
    size = rest.shape[0]
    gain = 2 * jnp.fft.irfft2(product, s=(size, size)) - energy[:, None, None]
    share = gain / jnp.maximum(energy, 1e-6)[:, None, None]
    allowed = (share >= SHARE) & _fits(boxes, size)
    flat = jnp.argmax(jnp.where(allowed, gain, -jnp.inf))
    template, top, left = jnp.unravel_index(flat, gain.shape)
    return jnp.where(allowed.any(), template, -1), top, left, share[template, top, left]


def _fits(boxes: Int[Array, "n 2"], size: int) -> Bool[Array, "n size size"]:
    """Whether a box that begins at a place ends inside the picture."""
    place = jnp.arange(size)
    rows = place[None] + boxes[:, :1] <= size
    columns = place[None] + boxes[:, 1:] <= size
    return rows[:, :, None] & columns[:, None]

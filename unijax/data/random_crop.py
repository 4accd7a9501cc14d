"""A random part of a picture, in place or mirrored: what training sees where crops are drawn."""

import math

import numpy as np
from jaxtyping import UInt8

from unijax.data.document import stable_hash
from unijax.data.images import RGB, resize


def random_crop(
    pixels: RGB,
    size: int,
    seed: int,
    scale: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> UInt8[np.ndarray, "size size 3"]:
    """A random part of the picture, brought to a square, every other one mirrored.

    A function of the picture and its seed. The rule is that of torchvision's `RandomResizedCrop`
    with bicubic antialiasing, with EVA's numbers (arXiv 2211.07636, appendix).

    Args:
      pixels: uint8 [height, width, 3].
      size: side of the result.
      seed: of the picture.
      scale: of the part's area, a share of the picture's.
      ratio: of the part's width to its height, as likely on either side of 1.
    """
    rng = np.random.default_rng(stable_hash("random crop", seed))
    mirrored = rng.random() < 0.5
    top, left, height, width = _part(rng, *pixels.shape[:2], scale, ratio)
    part = resize(pixels[top : top + height, left : left + width], size, size)
    return part[:, ::-1] if mirrored else part


def _part(
    rng: np.random.Generator,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a part that is drawn until it fits, ten times at most; then
    of the middle, as far as `ratio` lets it reach."""
    for _ in range(10):
        area = rng.uniform(*scale) * height * width
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            return int(top), int(left), h, w
    w = min(width, max(1, round(height * ratio[1])))
    h = min(height, max(1, round(width / ratio[0])))
    return (height - h) // 2, (width - w) // 2, h, w

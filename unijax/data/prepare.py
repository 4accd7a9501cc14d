"""A picture as a stream of images has it: read, decoded and made a square, in one place."""

import dataclasses

import numpy as np

from unijax.data import images
from unijax.data.document import ImageRef
from unijax.data.random_crop import random_crop


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How pictures are prepared.

    Attributes:
      size: side of the square, pixels.
      resize: "pad" keeps the whole picture in a grey square, "centre" crops the long side, "random"
        takes what the picture's seed says, mirrored or not.
      rounding: of the short side where it is padded, see `data.images.for_understanding`.
      max_pixels: larger pictures are refused.
      scale: of the area of a random crop, a share of the picture's.
    """

    size: int
    resize: str
    rounding: str = "floor"
    max_pixels: int = 50_000_000
    scale: tuple[float, ...] = (0.2, 1.0)

    def __call__(self, image: ImageRef) -> np.ndarray:
        """uint8 [size, size, 3]. Raises a UserError that names the picture."""
        pixels = images.decode(image.read(), image.where, self.max_pixels)
        if self.resize == "pad":
            return images.for_understanding(pixels, self.size, self.rounding)
        if self.resize == "random":
            return random_crop(pixels, self.size, image.seed, self.scale)
        return images.for_generation(pixels, self.size)

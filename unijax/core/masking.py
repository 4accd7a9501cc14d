"""What a recipe of masked image modelling asks of the data."""

import dataclasses

from unijax.core.errors import UserError

SHARE = 105 / 256  # of the patches, by EVA (arXiv 2211.07636, section 2.2)


def masked_count(rows: int, columns: int) -> int:
    """How many patches of a grid are masked, by EVA's share."""
    return round(SHARE * rows * columns)


@dataclasses.dataclass(frozen=True)
class Masking:
    """Of every picture as many patches are masked, in blocks (`data.block_mask`).

    Attributes:
      grid: patches of a picture's side.
      count: how many are masked.

    Raises:
      UserError: if there are not so many, or none.
    """

    grid: int
    count: int

    def __post_init__(self):
        if not 0 < self.count <= self.grid**2:
            raise UserError(
                "masked patches",
                f"{self.count} of a grid of {self.grid} x {self.grid}",
                f"1 to {self.grid**2}",
                "Mask fewer, or use smaller patches.",
            )

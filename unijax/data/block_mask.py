"""Which patches of a picture are masked: blocks, as many patches of every picture (BEiT, EVA).

BEiT's rule (arXiv 2106.08254, algorithm 1), with EVA's numbers (arXiv 2211.07636, section 2.2): of
16 x 16 patches 105 are masked, in blocks of 16 patches at least.
"""

import math

import numpy as np
from jaxtyping import Bool

from unijax.core.errors import UserError
from unijax.core.masking import masked_count
from unijax.data.document import stable_hash

SMALLEST = 16 / 256  # block, as a share of the patches
LEAST_ASPECT = 0.3
ATTEMPTS = 10  # at a block, before what is left is filled patch by patch


def block_mask(
    seed: int, rows: int, columns: int, count: int | None = None
) -> Bool[np.ndarray, "rows columns"]:
    """True for exactly `count` patches: a function of the picture's seed and the grid.

    Blocks of a random area, `SMALLEST` at least and at most what is left to mask, and of a random
    aspect are laid anywhere, over each other too, as long as none masks too many. The released code
    gives up after `ATTEMPTS` blocks that did not fit, and some pictures have a few patches less.
    Here the mask then grows at its edge, patch by patch, for every picture to have as many.

    Args:
      count: `masked_count` by default.

    Raises:
      UserError: if the grid has not so many patches.
    """
    count = masked_count(rows, columns) if count is None else count
    if not 0 <= count <= rows * columns:
        raise UserError(
            "masked patches", f"{count}", f"0 to {rows * columns}, the patches of a picture",
            "Mask fewer, or use smaller patches.",
        )  # fmt: skip
    rng = np.random.default_rng(stable_hash("block mask", seed))
    mask = np.zeros((rows, columns), bool)
    least = max(1.0, SMALLEST * rows * columns)
    failed = 0
    while (left := count - int(mask.sum())) > 0 and failed < ATTEMPTS:
        block = _block(rng, rows, columns, least, left)
        added = 0 if block is None else int((~mask[block]).sum())
        if 0 < added <= left:
            mask[block], failed = True, 0
        else:
            failed += 1
    for _ in range(count - int(mask.sum())):
        edge = np.flatnonzero(_edge(mask))
        mask.flat[edge[rng.integers(len(edge))]] = True
    return mask


def _block(
    rng: np.random.Generator, rows: int, columns: int, least: float, left: int
) -> tuple[slice, slice] | None:
    """A random block, or None where the one drawn would be as high or as wide as the grid."""
    area = rng.uniform(min(least, left), max(least, left))
    aspect = math.exp(rng.uniform(math.log(LEAST_ASPECT), -math.log(LEAST_ASPECT)))
    height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if not (0 < height < rows and 0 < width < columns):
        return None
    top, first = rng.integers(rows - height + 1), rng.integers(columns - width + 1)
    return slice(top, top + height), slice(first, first + width)


def _edge(mask: Bool[np.ndarray, "rows columns"]) -> Bool[np.ndarray, "rows columns"]:
    """The patches that are not masked beside one that is; all of them where none is."""
    if not mask.any():
        return ~mask
    wide = np.pad(mask, 1)
    beside = wide[2:, 1:-1] | wide[:-2, 1:-1] | wide[1:-1, 2:] | wide[1:-1, :-2]
    return beside & ~mask

"""Block-wise masks against the rule written out in loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unijax.core.errors import UserError
from unijax.data.block_mask import block_mask, masked_count
from unijax.data.document import stable_hash

SEEDS = st.integers(0, 2**32 - 1)
SIDES = st.integers(1, 24)


def slow_mask(seed: int, rows: int, columns: int, count: int) -> list[list[int]]:
    """BEiT's loop over attempts and cells, then the edge, with the same draws."""
    rng = np.random.default_rng(stable_hash("block mask", seed))
    mask = [[0] * columns for _ in range(rows)]
    masked = failed = 0
    least = max(1.0, 16 / 256 * rows * columns)
    while masked < count and failed < 10:
        left, delta = count - masked, 0
        area = rng.uniform(*sorted((least, left)))
        aspect = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 1 <= w < columns and 1 <= h < rows:
            top, first = int(rng.integers(0, rows - h + 1)), int(rng.integers(0, columns - w + 1))
            cells = [(i, j) for i in range(top, top + h) for j in range(first, first + w)]
            new = [(i, j) for i, j in cells if not mask[i][j]]
            if len(new) <= left:
                for i, j in new:
                    mask[i][j] = 1
                    delta += 1
        failed = 0 if delta else failed + 1
        masked += delta
    while masked < count:
        edge = []
        for i in range(rows):
            for j in range(columns):
                around = [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
                inside = [(a, b) for a, b in around if 0 <= a < rows and 0 <= b < columns]
                if not mask[i][j] and (not masked or any(mask[a][b] for a, b in inside)):
                    edge.append((i, j))
        i, j = edge[int(rng.integers(len(edge)))]
        mask[i][j] = 1
        masked += 1
    return mask


@settings(max_examples=200, deadline=None)
@given(SEEDS, SIDES, SIDES, st.data())
def test_equals_the_rule_in_loops(seed, rows, columns, data):
    count = data.draw(st.integers(0, rows * columns))
    mask = block_mask(seed, rows, columns, count)
    assert mask.shape == (rows, columns)
    assert mask.sum() == count
    np.testing.assert_array_equal(mask, np.array(slow_mask(seed, rows, columns, count), bool))


@settings(max_examples=200, deadline=None)
@given(SEEDS)
def test_of_evas_grid_exactly_105_patches_are_masked(seed):
    mask = block_mask(seed, 16, 16)
    assert mask.sum() == 105
    np.testing.assert_array_equal(mask, block_mask(seed, 16, 16))


def test_the_same_share_of_other_grids():
    assert [masked_count(n, n) for n in (2, 4, 8, 14, 16, 24, 32)] == [2, 7, 26, 80, 105, 236, 420]


def test_seeds_give_masks_of_their_own():
    masks = {block_mask(seed, 16, 16).tobytes() for seed in range(200)}
    assert len(masks) == 200


def test_masks_are_blocks():
    """A masked patch has more masked neighbours than one of patches masked at random."""

    def together(mask: np.ndarray) -> float:
        pairs = [(mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1])]
        return sum((a & b).sum() for a, b in pairs) / mask.sum()

    rng = np.random.default_rng(0)
    blocks = np.mean([together(block_mask(seed, 16, 16)) for seed in range(100)])
    scattered = np.zeros((100, 256), bool)
    scattered[:, :105] = True
    scattered = [rng.permuted(row).reshape(16, 16) for row in scattered]
    assert blocks > 1.5
    assert np.mean([together(mask) for mask in scattered]) < 0.9


def test_every_patch_is_masked_as_often_as_its_place_allows():
    shown = np.mean([block_mask(seed, 16, 16) for seed in range(2000)], axis=0)
    assert shown.mean() == pytest.approx(105 / 256)
    np.testing.assert_allclose(shown, shown[::-1], atol=0.06)
    np.testing.assert_allclose(shown, shown.T, atol=0.06)


def test_more_patches_than_there_are_is_told():
    with pytest.raises(UserError, match="found 105; expected 0 to 64, the patches of a picture"):
        block_mask(0, 8, 8, 105)

"""Random crops against torchvision's rule written out, and PIL's filter written out."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from unijax.data.document import stable_hash
from unijax.data.random_crop import random_crop

SEEDS = st.integers(0, 2**32 - 1)


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def drawn(seed, height, width, scale, ratio):
    """Whether it is mirrored, and the part, as `RandomResizedCrop.get_params` finds it."""
    rng = np.random.default_rng(stable_hash("random crop", seed))
    mirrored = rng.random() < 0.5
    for _ in range(10):
        target = rng.uniform(scale[0], scale[1]) * height * width
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w = round(math.sqrt(target * aspect))
        h = round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            i = int(rng.integers(0, height - h + 1))
            j = int(rng.integers(0, width - w + 1))
            return mirrored, i, j, h, w
    if width / height < ratio[0]:
        w, h = width, round(width / ratio[0])
    elif width / height > ratio[1]:
        w, h = round(height * ratio[1]), height
    else:
        w, h = width, height
    w, h = max(w, 1), max(h, 1)  # theirs has no pixel left of the thinnest pictures
    return mirrored, (height - h) // 2, (width - w) // 2, h, w


def cubic(x: float) -> float:
    """Of Keys, a = -0.5, as PIL has it."""
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0


def slow_resize(line: np.ndarray, size: int) -> np.ndarray:
    """The first axis of [n, ...] to `size`, widened where it shrinks, rounded to a byte."""
    step = len(line) / size
    wide = max(step, 1.0)
    out = np.zeros((size, *line.shape[1:]))
    for i in range(size):
        centre = (i + 0.5) * step
        near = range(
            max(0, int(centre - 2 * wide + 0.5)), min(len(line), int(centre + 2 * wide + 0.5))
        )
        weights = [cubic((k + 0.5 - centre) / wide) for k in near]
        for k, weight in zip(near, weights):
            out[i] += line[k].astype(float) * weight / sum(weights)
    return np.clip(np.round(out), 0, 255)


def slow_crop(pixels, size, seed, scale, ratio):
    height, width = pixels.shape[:2]
    mirrored, i, j, h, w = drawn(seed, height, width, scale, ratio)
    part = np.array([[pixels[i + y, j + x] for x in range(w)] for y in range(h)])
    if (h, w) != (size, size):
        across = slow_resize(part.transpose(1, 0, 2), size)  # PIL works rows first
        part = slow_resize(across.transpose(1, 0, 2), size)
    if mirrored:
        part = np.array([[row[size - 1 - x] for x in range(size)] for row in part])
    return part


@settings(max_examples=60, deadline=None)
@given(
    SEEDS,
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([4, 16]),
    st.sampled_from(
        [((0.2, 1.0), (3 / 4, 4 / 3)), ((0.9, 1.0), (1.0, 1.0)), ((1.0, 1.0), (2.0, 3.0))]
    ),
)
def test_equals_the_rule_in_loops(seed, height, width, size, ranges):
    pixels = picture(height, width)
    found = random_crop(pixels, size, seed, *ranges)
    assert found.dtype == np.uint8
    assert found.shape == (size, size, 3)
    wanted = slow_crop(pixels, size, seed, *ranges)
    # PIL sums in whole numbers, with weights of 22 bits: a half may be rounded to the other side.
    assert np.abs(found.astype(float) - wanted).max() <= 1


def test_the_seed_decides_alone():
    pixels = picture(30, 40)
    crops = [random_crop(pixels, 8, seed) for seed in range(50)]
    assert len({c.tobytes() for c in crops}) == 50
    for seed in (0, 17):
        np.testing.assert_array_equal(crops[seed], random_crop(pixels, 8, seed))


def test_half_of_the_pictures_are_mirrored():
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, 4:] = 255
    whole = [random_crop(pixels, 8, seed, (1.0, 1.0), (1.0, 1.0)) for seed in range(400)]
    mirrored = [bool(c[0, 0, 0]) for c in whole]
    assert all(np.array_equal(c, pixels[:, ::-1] if m else pixels) for c, m in zip(whole, mirrored))
    assert 160 < sum(mirrored) < 240

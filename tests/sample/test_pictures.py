"""Files and grids."""

import numpy as np
import pytest
from PIL import Image

from unijax.core.errors import UserError
from unijax.sample.pictures import grid, save_all, save_png


@pytest.fixture
def pictures(rng):
    return rng.integers(0, 256, (3, 2, 16, 16, 3), np.uint8)


PROMPTS = ["A red cat!", "猫", "the cat, the dog, the mat, " * 20]


def test_files_hold_the_pictures(pictures, tmp_path):
    paths = save_all(tmp_path / "new" / "folder", pictures, PROMPTS)
    assert [p.name for p in paths] == [
        "000-a-red-cat-0.png", "000-a-red-cat-1.png", "001-0.png", "001-1.png",
        "002-the-cat-the-dog-the-mat-the-cat-the-dog-0.png",
        "002-the-cat-the-dog-the-mat-the-cat-the-dog-1.png", "grid.png",
    ]  # fmt: skip
    for path, pixels in zip(paths, pictures.reshape(-1, 16, 16, 3)):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), pixels)
    assert sorted(paths) == sorted((tmp_path / "new" / "folder").iterdir())


def test_a_grid_shows_every_picture_once_and_its_prompt(pictures):
    for columns in (0, 1, 2, 3):
        page = grid(pictures, PROMPTS, columns, side=32)
        large = pictures.repeat(2, axis=2).repeat(2, axis=3)
        corners = []
        for picture in large.reshape(-1, 32, 32, 3):
            windows = np.lib.stride_tricks.sliding_window_view(page, (32, 32, 3))[:, :, 0]
            corner = windows[:, :, 0, 0] == picture[0, 0]
            found = [c for c in np.argwhere(corner.all(-1)) if (windows[tuple(c)] == picture).all()]
            assert len(found) == 1
            corners.append(tuple(found[0]))
        assert corners[0][0] == corners[1][0]  # a prompt's pictures stand in a row
        assert (page[corners[0][0] + 32 :, :, :] < 100).any()  # captions, in black
        if columns == 1:
            assert [c[0] for c in corners] == sorted(c[0] for c in corners)


def test_a_place_that_cannot_be_written(pictures, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        save_png(tmp_path / "file" / "x.png", pictures[0, 0])

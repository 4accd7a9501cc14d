"""Systems beside each other: what the page says of each, and configs that cannot stand together."""

import pathlib
import re
import shutil

import pytest

from tests.long import long
from tests.main import tiny
from unijax.core.errors import UserError
from unijax.main import demo as demo_lib
from unijax.main.gallery import gallery

TINY = pathlib.Path(tiny.__file__)


@long
def test_the_gallery_shows_what_each_system_drew(whole, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo_lib, "HELD_OUT", 2)
    shutil.copytree(whole[0], tmp_path / "tiny")
    shutil.copytree(whole[0], tmp_path / "again")
    again = tmp_path / "configs" / "again.py"
    again.parent.mkdir()
    shutil.copy(TINY, again)
    assert gallery([str(TINY), str(again)], (), tmp_path) == 0
    printed = capsys.readouterr().out
    headline = re.search(r"Of 16 prompts drawn right: tiny \d+%, again \d+%", printed)
    page = (tmp_path / "gallery.html").read_text()
    assert headline.group(0) in page
    assert page.count("<div class='card ") == 2 * (16 + 2)
    assert page.count("equal: largest relative difference") == 2
    assert "code/loss" in page
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page), "the page needs other files"


def test_systems_that_draw_other_pictures_are_refused_before_anything_is_trained(tmp_path):
    other = tmp_path / "other.py"
    old, new = (
        '"path": "emoji", "limit": 16',
        '"path": "emoji", "limit": 16, "categories": ["objects"]',
    )
    text = TINY.read_text()
    assert old in text
    other.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=r"other: the pictures to draw: found 16 .* those of tiny"):
        gallery([str(TINY), str(other)], (), tmp_path / "gallery")
    assert not (tmp_path / "gallery").exists()


def test_two_configs_of_one_name_are_refused(tmp_path):
    with pytest.raises(UserError, match="two of one file name"):
        gallery([str(TINY), f"{TINY}:"], (), tmp_path)

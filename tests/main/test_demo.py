"""The reports: of the demo, and of what was never seen together."""

import json
import re
import shutil

import numpy as np
import pytest

from tests.long import long
from tests.main import tiny
from unijax.core.errors import UserError
from unijax.data.config import preparation
from unijax.data.sources import open_records
from unijax.evaluate.captioned import load
from unijax.main import composition as composition_lib
from unijax.main.composition import composition
from unijax.main.demo import demo
from unijax.main.run import make_system, resolve
from unijax.main.train import train
from unijax.sample.sampler import Sampler


@pytest.fixture
def run_dir(whole, tmp_path):
    """A finished run of its own: reports and exports are written into it."""
    return shutil.copytree(whole[0], tmp_path / "run")


def test_the_demo_reports_on_its_run(run_dir, capsys):
    assert demo(resolve(tiny.get_config()), run_dir) == 0
    printed = capsys.readouterr().out
    headline = re.search(
        r"\d+% of 16 prompts drawn right \(nearest of 3370 real pictures\), "
        r"\d+% of the pictures named exactly; 30 steps in \d+\.\d minutes",
        printed,
    )
    assert headline
    page = (run_dir / "report.html").read_text()
    assert headline.group(0) in page
    assert "equal: largest relative difference" in page
    assert page.count("<div class='card ") == 16 + 16 + 48 + 48
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page), "the page needs other files"
    for title in ("image codes", "answers about pictures", "held out", "tokens per second"):
        assert title in page, title


def test_a_drawn_picture_is_judged_against_all_that_are_shipped(run_dir, monkeypatch, capsys):
    """A model that draws the true pictures has all of them right; its answers stay its own."""
    run = resolve(tiny.get_config())
    source = next(g for g in run.data.groups if g.name == "gen").sources[0]
    prepare = preparation(run.data, make_system(run).layout.by_role["gen"])
    true = load(open_records(source, run.data.seed), prepare)
    known = dict(zip(true.labels, true.pixels))

    def draw(self, prompts, n, guidance, sampling, seed=0):
        black = np.zeros_like(true.pixels[0])
        return np.stack([known.get(p, black) for p in prompts])[:, None]

    monkeypatch.setattr(Sampler, "draw", draw)
    demo(run, run_dir)
    assert "100% of 16 prompts drawn right" in capsys.readouterr().out


@long
def test_what_was_never_seen_together_is_scored_and_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(composition_lib, "SCENES", 3)
    sizes = ("model.vision.image_size=32", "model.vision.patch_size=8", "model.vq.image_size=32",
             "validation.batches=0", "validation.samples=0")  # fmt: skip
    train(resolve(tiny.get_config(), sizes), tmp_path, stop_at=1)
    page = composition(tmp_path).read_text()
    results = json.loads((tmp_path / "composition.json").read_text())["results"]
    unseen = "Gestures and skin tones never seen together"
    assert results[f"{unseen}, drawn"]["whole"][1] == results[f"{unseen}, named"]["tone"][1] == 148
    scenes = "Scenes with counts and places never seen"
    assert results[f"{scenes}, true pictures"]["all"] == [3, 3]
    assert results[f"{scenes}, drawn"]["all"] == [0, 3]
    assert results[f"{scenes}, answered"]["all"][1] == 9
    printed = capsys.readouterr().out
    for key in results:
        assert key in printed
        assert key in page


def test_pictures_too_small_for_scenes_are_told(run_dir):
    with pytest.raises(UserError, match=r"scenes\.size: found 16; expected a number from 32"):
        composition(run_dir)

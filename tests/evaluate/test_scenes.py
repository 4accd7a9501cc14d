"""Scores of scenes: against the truth that scenes carry, and against small cases by hand."""

import itertools

import numpy as np
import pytest

from unijax.data.scene_text import POSITIONS
from unijax.data.scenes import COLOURS, SceneConfig, scene
from unijax.data.sprites import load_sprites
from unijax.evaluate.scenes import KINDS, kind_of, relation, score_answers, score_drawn
from unijax.evaluate.sprite_detector import Found, SpriteDetector, background, colour_name

SIZE = 64


@pytest.fixture(scope="module")
def sprites():
    return load_sprites("train")[:10]


@pytest.fixture(scope="module")
def detector(sprites):
    return SpriteDetector(sprites, SIZE)


@pytest.fixture(scope="module")
def records(sprites):
    return [scene(f"detector-{i}", sprites, SceneConfig(size=SIZE)) for i in range(24)]


def test_every_true_scene_is_all_right(detector, records):
    for record in records:
        picture = record["image"]
        scores = score_drawn(
            detector.find(picture), colour_name(background(picture)), record["truth"], SIZE
        )
        assert all(scores.values()), (record["captions"], scores)


def test_boxes_are_found_to_the_pixel(detector, records):
    for record in records:
        found = sorted((f.name, f.box) for f in detector.find(record["image"]))
        true = sorted((o["name"], tuple(o["box"])) for o in record["truth"]["objects"])
        assert found == true


def test_a_little_noise_changes_nothing(detector, records):
    rng = np.random.default_rng(0)
    for record in records[:8]:
        noise = rng.normal(0, 8, record["image"].shape)
        picture = np.clip(record["image"] + noise, 0, 255).astype(np.uint8)
        names = sorted(f.name for f in detector.find(picture))
        assert names == sorted(o["name"] for o in record["truth"]["objects"])


def test_another_scene_is_not_right(detector, records):
    for record, other in itertools.pairwise(records):
        if record["truth"]["counts"] != other["truth"]["counts"]:
            scores = score_drawn(detector.find(other["image"]), "red", record["truth"], SIZE)
            assert not scores["all"]


def test_an_empty_picture_shows_nothing(detector):
    assert detector.find(np.full((SIZE, SIZE, 3), 150, np.uint8)) == []


@pytest.mark.parametrize("name", COLOURS)
def test_background_is_the_colour_that_most_of_the_picture_has(name):
    picture = np.empty((SIZE, SIZE, 3), np.uint8)
    picture[:] = COLOURS[name]
    picture[10:40, 10:40] = 90
    assert colour_name(background(picture)) == name


def box(left: int, top: int, side: int = 10) -> tuple[int, int, int, int]:
    return left, top, left + side, top + side


def test_position_is_the_ninth_of_the_middle():
    names = [[Found("dog", box(x, y), 1.0).position(60) for x in (5, 25, 45)] for y in (5, 25, 45)]
    assert names == [list(row) for row in POSITIONS]


def test_relation_is_along_the_longer_axis():
    dog = Found("dog", box(0, 4), 1.0)
    assert relation(dog, Found("cat", box(30, 0), 1.0)) == "left"
    assert relation(Found("cat", box(30, 0), 1.0), dog) == "right"
    assert relation(dog, Found("cat", box(6, 30), 1.0)) == "above"


@pytest.mark.parametrize(
    ("found", "wrong"),
    [
        (["dog", "dog", "cat"], set()),
        (["dog", "cat"], {"count"}),
        (["dog", "dog", "cat", "fox"], {"only"}),
        (["fox"], {"count", "only"}),
        ([], {"count"}),
    ],
)
def test_counts_and_strangers_are_scored_apart(found, wrong):
    truth = {
        "background": "red", "counts": {"dog": 2, "cat": 1}, "position": None, "relation": None,
    }  # fmt: skip
    things = [Found(name, box(10 * i, 0), 1.0) for i, name in enumerate(found)]
    scores = score_drawn(things, "red", truth, SIZE)
    assert {k for k, v in scores.items() if not v} - {"all"} == wrong
    assert scores["all"] == (not wrong)


def test_every_question_of_scenes_has_a_kind(records):
    kinds = {kind_of(q["question"]) for r in records for q in r["questions"]}
    assert kinds == {kind for _, kind in KINDS}


def test_answers_are_counted_by_kind():
    asked = [
        ("How many dogs are there?", "Two.", "two"),
        ("How many cats are there?", "three", "two"),
        ("Where is the dog?", "top left", "top left"),
        ("Is the dog above the cat?", "", "yes"),
    ]
    assert score_answers(asked) == {"count": (1, 2), "position": (1, 1), "relation": (0, 1)}

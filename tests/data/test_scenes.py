"""Composed scenes: what is said is what is shown, checked without the generator's own words."""

import collections
import dataclasses
import pickle
import re

import grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unijax.core.errors import UserError
from unijax.data.scene_text import amount, with_article
from unijax.data.scenes import COLOURS, SceneConfig, Scenes, held_out, scene
from unijax.data.sprites import load_sprites

SPRITES = load_sprites("train")
BY_NAME = {sprite.singular: sprite for sprite in SPRITES}
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
NINTHS = {
    "top left": (0, 0), "top": (0, 1), "top right": (0, 2),
    "left": (1, 0), "center": (1, 1), "right": (1, 2),
    "bottom left": (2, 0), "bottom": (2, 1), "bottom right": (2, 2),
}  # fmt: skip

GOLDEN = [
    "a palm tree and three hamburgers on a red background",
    "two umbrellas and a taxi on an orange background",
    "a zebra on the right side of a red background",
    "four llamas on a black background",
]

configs = st.builds(
    SceneConfig,
    size=st.sampled_from([32, 48, 64, 96]),
    max_objects=st.integers(2, 9),
    held_out=st.sampled_from([0.0, 0.05, 0.1]),
    jitter=st.integers(0, 12),
    questions=st.integers(0, 9),
)
seeds = st.integers(0, 2**40)


def painted(sprite, side, rgb):
    """The sprite on a plain background, by PIL's own compositing."""
    height, width = sprite.rgba.shape[:2]
    scale = side / max(height, width)
    shape = max(1, round(width * scale)), max(1, round(height * scale))
    picture = Image.fromarray(sprite.rgba).resize(shape, Image.Resampling.LANCZOS)
    return np.asarray(
        Image.alpha_composite(Image.new("RGBA", shape, (*rgb, 255)), picture).convert("RGB")
    ).astype(int)


@given(seed=seeds, config=configs)
@settings(max_examples=60, deadline=None)
def test_picture_shows_the_objects_of_the_truth_and_nothing_else(seed, config):
    record = scene(seed, SPRITES, config)
    image, truth = record["image"].astype(int), record["truth"]
    assert image.shape == (config.size, config.size, 3)
    rgb = truth["background_rgb"]
    named = np.array(COLOURS[truth["background"]])
    assert np.abs(named - rgb).max() <= config.jitter
    covered = np.zeros(image.shape[:2], int)
    for thing in truth["objects"]:
        left, top, right, bottom = thing["box"]
        assert 0 <= left < right <= config.size
        assert 0 <= top < bottom <= config.size
        covered[top:bottom, left:right] += 1
        side = max(right - left, bottom - top)
        expected = painted(BY_NAME[thing["name"]], side, rgb)
        assert np.abs(image[top:bottom, left:right] - expected).max() <= 1
        visible = np.abs(image[top:bottom, left:right] - rgb).max(-1) > 30
        assert visible.mean() > 0.1
        middle = (top + bottom) / 2, (left + right) / 2
        assert NINTHS[thing["position"]] == tuple(int(3 * m / config.size) for m in middle)
    assert covered.max() == 1, "boxes overlap"
    assert (image[covered == 0] == rgb).all(), "something stands outside the boxes"
    counted = collections.Counter(thing["name"] for thing in truth["objects"])
    assert counted == truth["counts"]
    assert sum(counted.values()) <= config.max_objects


def parse_amounts(words):
    """'two red apples and a dog' -> {'red apple': 2, 'dog': 1}, without the generator's grammar."""
    singular = {sprite.singular: sprite.singular for sprite in SPRITES}
    plural = {sprite.plural: sprite.singular for sprite in SPRITES}
    counts = {}
    for part in words.split(" and "):
        number, name = part.split(" ", 1)
        if number.lower() in ("a", "an"):
            assert (number.lower() == "an") == (name[0] in "aeiou" and name != "unicorn")
            counts[singular[name]] = 1
        else:
            counts[plural[name]] = WORDS.index(number.lower())
    return counts


def on_which_side(one, other):
    """How box `one` is to box `other`: by the gap between them, the slow way."""
    gaps = {
        "left": other["box"][0] - one["box"][2],
        "right": one["box"][0] - other["box"][2],
        "above": other["box"][1] - one["box"][3],
        "below": one["box"][1] - other["box"][3],
    }
    return [side for side, gap in gaps.items() if gap >= 0]


BACKGROUND = r"[Aa]n? (?P<colour>\w+) background"
ASIDE = r"(?:to the )?(?P<aside>left|right|above|below)(?: of)?"
PLACE = r"(?:in the|at the|on the) (?P<place>[a-z ]+?)(?: corner| side)?"
SAID = {
    "amounts": [
        rf"(?P<things>.+?) on {BACKGROUND}",
        rf"{BACKGROUND} with (?P<things>.+?)",
        r"(?P<things>.+?)\. The background is (?P<colour>\w+)\.",
    ],
    "relation": [
        rf"an? (?P<one>.+?) {ASIDE} an? (?P<other>.+) on {BACKGROUND}",
        rf"an? (?P<one>.+?) {ASIDE} an? (?P<other>.+) on {BACKGROUND}",
        rf"(?P<things>.+?) on {BACKGROUND}\. The (?P<one>.+?) is {ASIDE} the (?P<other>.+)\.",
    ],
    "position": [
        rf"(?P<things>.+?) {PLACE} of {BACKGROUND}",
        rf"{BACKGROUND} with (?P<things>.+?) {PLACE}",
        rf"(?P<things>.+?) on {BACKGROUND}\. The (?P<one>.+?) is {PLACE}\.",
    ],
}


@given(seed=seeds, config=configs)
@settings(max_examples=150, deadline=None)
def test_captions_agree_with_the_boxes(seed, config):
    record = scene(seed, SPRITES, config)
    truth, said = record["truth"], record["captions"]
    things = {thing["name"]: thing for thing in truth["objects"]}
    kind = next((kind for kind in ("relation", "position") if truth[kind]), "amounts")
    assert len(set(said)) == len(said) == 3
    for caption, pattern in zip(said, SAID[kind]):
        found = re.fullmatch(pattern, caption).groupdict()
        assert found["colour"] == truth["background"]
        if "things" in found:
            assert parse_amounts(found["things"]) == truth["counts"]
        if "one" in found:
            assert found["one"] in things
        if "aside" in found:
            assert {found["one"], found["other"]} == set(things)
            assert on_which_side(things[found["one"]], things[found["other"]]) == [found["aside"]]
        if "place" in found:
            assert [thing["position"] for thing in things.values()] == [found["place"]]


def answer(question, truth):
    """The answer from boxes and colours alone; None where the question is of another kind."""
    things = {thing["name"]: thing for thing in truth["objects"]}
    plurals = {sprite.plural: sprite.singular for sprite in SPRITES}
    if question == "What color is the background?":
        return truth["background"]
    if question == "How many things are in the picture?":
        return WORDS[len(truth["objects"])]
    if match := re.fullmatch(r"How many (.+) are there\?", question):
        names = [thing["name"] for thing in truth["objects"]]
        return WORDS[names.count(plurals[match[1]])]
    if match := re.fullmatch(r"Is there an? (.+) in the picture\?", question):
        return "yes" if match[1] in things else "no"
    if match := re.fullmatch(r"Where is the (.+)\?", question):
        return things[match[1]]["position"]
    aside = r"(?:to the )?(left|right|above|below)(?: of)?"
    if match := re.fullmatch(rf"Is the (.+?) {aside} the (.+)\?", question):
        return "yes" if match[2] in on_which_side(things[match[1]], things[match[3]]) else "no"
    if match := re.fullmatch(rf"What is {aside} the (.+)\?", question):
        other = things[match[2]]
        (found,) = [n for n, t in things.items() if match[1] in on_which_side(t, other)]
        return with_article(found)
    return None


@given(seed=seeds, config=configs)
@settings(max_examples=150, deadline=None)
def test_answers_agree_with_the_boxes(seed, config):
    record = scene(seed, SPRITES, config)
    asked = record["questions"]
    assert len(asked) == min(config.questions, len(asked))
    assert len({pair["question"] for pair in asked}) == len(asked)
    for pair in asked:
        if pair["question"] == "What is in the picture?":
            assert parse_amounts(pair["answer"]) == record["truth"]["counts"]
        else:
            assert pair["answer"] == answer(pair["question"], record["truth"]), pair


def test_yes_is_as_common_as_no():
    scenes = Scenes(config=SceneConfig(questions=9))
    said = [pair["answer"] for i in range(300) for pair in scenes[i]["questions"]]
    assert said.count("yes") == said.count("no") > 300


def test_same_seed_same_scene_other_seed_other_scene():
    first, again = Scenes(seed=3), Scenes(seed=3)
    for i in (0, 7, 2**30 - 1):
        np.testing.assert_equal(first[i], again[i])
    pictures = {
        Scenes(split, seed)[i]["image"].tobytes()
        for split in ("train", "validation", "test", "composition")
        for seed in (0, 1)
        for i in range(30)
    }
    assert len(pictures) == 4 * 2 * 30
    assert len({first[i]["id"] for i in range(60)}) == 60


def test_golden_scene():
    """The stream is fixed: a change of the generator is a change of the data, and is seen here."""
    assert [Scenes()[i]["captions"][0] for i in range(4)] == GOLDEN


def test_random_access_and_grain():
    scenes = Scenes(length=50)
    assert len(scenes) == 50
    for index in (-1, 50):
        with pytest.raises(IndexError):
            scenes[index]
    loaded = pickle.loads(pickle.dumps(scenes))
    np.testing.assert_equal(loaded[9], scenes[9])
    shuffled = grain.MapDataset.source(scenes).shuffle(seed=1)
    assert {shuffled[i]["id"] for i in range(50)} == {scenes[i]["id"] for i in range(50)}


def shown(truth):
    """Every (kind, name, value) that a picture shows, from the boxes."""
    placed = {("position", t["name"], t["position"]) for t in truth["objects"]}
    return placed | {("count", name, n) for name, n in truth["counts"].items()}


def held(config):
    pairs = set()
    for sprite in SPRITES:
        counts = tuple(range(2, config.max_objects + 1))
        pairs.add(("count", sprite.singular, held_out("count", sprite.singular, counts, 0.1)))
        where = held_out("position", sprite.singular, tuple(NINTHS), 0.1)
        pairs.add(("position", sprite.singular, where))
    return {pair for pair in pairs if pair[2] is not None}


def test_held_out_pairs_are_a_tenth_and_spread():
    pairs = held(SceneConfig())
    kinds = collections.Counter(kind for kind, _, _ in pairs)
    assert 0.06 < kinds["count"] / (3 * len(SPRITES)) < 0.14
    assert 0.06 < kinds["position"] / (9 * len(SPRITES)) < 0.14
    values = collections.Counter(value for _, _, value in pairs)
    assert set(values) == {2, 3, 4, *NINTHS}


def test_training_never_shows_what_is_held_out_and_composition_always_names_it():
    config = SceneConfig()
    pairs = held(config)
    seen = set()
    for i in range(600):
        truth = Scenes()[i]["truth"]
        assert not shown(truth) & pairs
        assert truth["held_out"] == []
        seen |= shown(truth)
    assert {value for kind, _, value in seen if kind == "count"} == {1, 2, 3, 4}
    assert {value for kind, _, value in seen if kind == "position"} == set(NINTHS)
    tested = set()
    for i in range(150):
        record = Scenes("composition")[i]
        named = {tuple(pair) for pair in record["truth"]["held_out"]}
        assert named
        assert named <= shown(record["truth"]) & pairs
        for kind, name, value in named:
            sprite = BY_NAME[name]
            word = amount(sprite, value) if kind == "count" else value
            assert word in record["captions"][0]
        tested |= named
    assert len(tested) > 60


def test_every_thing_count_and_colour_is_common():
    scenes = Scenes()
    truths = [scenes[i]["truth"] for i in range(1200)]
    things = collections.Counter(name for truth in truths for name in truth["counts"])
    assert set(things) == set(BY_NAME)
    colours = collections.Counter(truth["background"] for truth in truths)
    assert min(colours[colour] for colour in COLOURS) > 40
    counts = collections.Counter(n for truth in truths for n in truth["counts"].values())
    assert min(counts[n] for n in (1, 2, 3, 4)) > 60


def test_sprites():
    assert len(SPRITES) > 140
    assert len(load_sprites("train", "validation", "test")) == 165
    assert not {s.concept for s in SPRITES} & {s.concept for s in load_sprites("test")}
    for sprite in SPRITES:
        alpha = sprite.rgba[..., 3]
        assert min(alpha[0].max(), alpha[-1].max(), alpha[:, 0].max(), alpha[:, -1].max()) > 16
        assert sum(sprite.is_visible_on(rgb) for rgb in COLOURS.values()) >= 5


@pytest.mark.parametrize(
    ("noun", "expected"),
    [("dog", "a dog"), ("owl", "an owl"), ("unicorn", "a unicorn"), ("orange", "an orange")],
)
def test_articles(noun, expected):
    assert with_article(noun) == expected


def message(call, *arguments, **named):
    with pytest.raises(UserError) as caught:
        call(*arguments, **named)
    return str(caught.value)


def test_what_cannot_be_is_said():
    assert "found 'training'; expected one of train" in message(Scenes, "training")
    said = message(SceneConfig, size=8)
    assert said == "scenes.size: found 8; expected a number from 32 to 1024. Change it."
    assert message(SceneConfig, shares=(0.0, 0.0, 0.0, 0.0)).startswith("scenes.shares: found (0.0")
    none = dataclasses.replace(SceneConfig(), held_out=0.0)
    assert "no scene in 2000 draws" in message(scene, 0, SPRITES, none, True)

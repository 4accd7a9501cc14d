"""`unijax composition`: does a trained Janus put together what it never saw together?

Two kinds of pairs are kept from training. Of the shipped pictures, some gestures in some skin tones
(the split 'composition'); of the composed scenes, some things in some numbers and places. Each is
drawn from its words and named from its picture, beside as many that training did show.
"""

import json
import pathlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from unijax.core.files import atomic_file
from unijax.data.builders import open_dataset
from unijax.data.scenes import SceneConfig, Scenes
from unijax.data.sprites import load_sprites
from unijax.evaluate.naming import normalise
from unijax.evaluate.scenes import KINDS, score_answers, score_drawn
from unijax.evaluate.sprite_detector import SpriteDetector, background, colour_name
from unijax.main import report
from unijax.main.config import to_json
from unijax.main.judge import GUIDANCE, Pictures, draw, load, load_shipped, name
from unijax.main.report import Answered, Drawn, Section
from unijax.main.run import RunConfig, make_system, resolve
from unijax.main.use import open_sampler
from unijax.sample.logits import Sampling
from unijax.sample.prompts import question
from unijax.sample.sampler import Sampler
from unijax.train.checkpoint import read_run

SCENES = 128  # of each split
SHOWN = 36  # cards of a section
SCENE_SAMPLING = Sampling(temperature=1.0, top_p=0.95)
PARTS = ("all", "background", "count", "only", "position", "relation")

Shares = dict[str, tuple[int, int]]  # what was asked -> (right, of how many)


def composition(run_dir: pathlib.Path) -> pathlib.Path:
    """Writes composition.json and composition.html into the run directory; returns the latter.

    Raises:
      UserError: for pictures too small for scenes.
    """
    run = resolve(read_run(run_dir)["config"])
    size = make_system(run).layout.by_role["gen"].size
    config = SceneConfig(size=size)
    sampler = open_sampler(run_dir)
    shipped = load_shipped(run)
    unseen = load(open_dataset("emoji", "composition"), run)
    seen = _seen(unseen, load(open_dataset("emoji", "train"), run))
    results: dict[str, Shares] = {}
    sections: list[Section] = []
    for title, pictures in (("seen in training", seen), ("never seen together", unseen)):
        drawn, found = draw(sampler, pictures, shipped)
        named = name(sampler, pictures)
        key = f"Gestures and skin tones {title}"
        results[f"{key}, drawn"] = _drawn_shares(drawn, found, pictures, shipped)
        results[f"{key}, named"] = _named_shares(named, pictures)
        sections.append(Section(f"{key}, drawn", "Greedy, beside the true picture.", drawn[:SHOWN]))
        sections.append(Section(f"{key}, named", "Greedy.", named[:SHOWN]))
    detector = SpriteDetector(load_sprites("train"), size)
    for title, split in (("seen in training", "validation"), ("never seen", "composition")):
        scenes = Scenes(split=split, seed=run.data.seed, config=config)
        records = [scenes[i] for i in range(SCENES)]
        key = f"Scenes with counts and places {title}"
        for how, pictures in _scene_pictures(sampler, records).items():
            cards, results[f"{key}, {how}"] = _judge_scenes(detector, records, pictures, size)
            if how == "drawn":
                note = f"From the plainest caption, {SCENE_SAMPLING}, beside a true picture."
                sections.append(Section(f"{key}, drawn", note, cards[:SHOWN]))
        cards, results[f"{key}, answered"] = _ask(sampler, records)
        sections.append(Section(f"{key}, answered", "Greedy.", cards[:SHOWN]))
    return _write(run_dir, run, results, sections)


def _seen(unseen: Pictures, train: Pictures) -> Pictures:
    """The same gestures, each once, in a tone that training showed."""
    wanted = set(unseen.bases)
    chosen, bases = [], Counter()
    for i, (base, tone) in enumerate(zip(train.bases, train.tones)):
        if base in wanted and tone and not bases[base]:
            bases[base] += 1
            chosen.append(i)
    pick = lambda values: [values[i] for i in chosen]  # noqa: E731
    return Pictures(pick(train.labels), pick(train.bases), pick(train.tones), train.pixels[chosen])


def _share(right: Sequence[bool]) -> tuple[int, int]:
    return int(np.sum(right)), len(right)


def _drawn_shares(
    drawn: list[Drawn], found: list[int], pictures: Pictures, shipped: Pictures
) -> Shares:
    """Of all shipped pictures the right one is the nearest; the nearest has the right part."""
    return {
        "whole": _share([d.right for d in drawn]),
        "gesture": _share([shipped.bases[i] == b for i, b in zip(found, pictures.bases)]),
        "tone": _share([shipped.tones[i] == t for i, t in zip(found, pictures.tones)]),
    }


def _named_shares(named: list[Answered], pictures: Pictures) -> Shares:
    """The answer is the exact name; it has the exact words of the part."""
    said = [f" {normalise(a.answer)} " for a in named]
    tones = [f" {normalise(t)} skin tone " for t in pictures.tones]
    bases = [normalise(b) for b in pictures.bases]
    return {
        "whole": _share([a.right for a in named]),
        "gesture": _share([s.strip().startswith(b) for s, b in zip(said, bases)]),
        "tone": _share([_tone(s) == _tone(t) for s, t in zip(said, tones)]),
    }


def _tone(words: str) -> str:
    """The tone in normalised words, "" for none."""
    before = words.partition(" skin tone ")[0].split()
    tone = [w for w in before[-2:] if w in ("light", "medium", "dark")]
    return " ".join(tone)


def _scene_pictures(sampler: Sampler, records: list[dict]) -> dict[str, np.ndarray]:
    """The true pictures, what the tokenizer alone makes of them, and the drawn ones.

    The drawn ones are samples: a caption leaves open where its things stand, so that the most
    likely code of nearly every place is background, and a greedy picture empty.
    """
    true = np.stack([r["image"] for r in records])
    drawn = sampler.draw([r["captions"][0] for r in records], 1, GUIDANCE, SCENE_SAMPLING)[:, 0]
    return {
        "true pictures": true,
        "rebuilt by the tokenizer": sampler.rebuild(true),
        "drawn": drawn,
    }


def _judge_scenes(
    detector: SpriteDetector, records: list[dict], pictures: np.ndarray, size: int
) -> tuple[list[Drawn], Shares]:
    right, count = Counter(), Counter()
    cards = []
    for record, picture in zip(records, pictures):
        colour = colour_name(background(picture))
        scores = score_drawn(detector.find(picture), colour, record["truth"], size)
        right.update({k: v for k, v in scores.items() if v})
        count.update(scores.keys())
        missed = ", ".join(k for k, v in scores.items() if not v and k != "all")
        note = f"not right: {missed}" if missed else ""
        card = Drawn(record["captions"][0], picture, record["image"], scores["all"], note)
        cards.append(card)
    return cards, {k: (right[k], count[k]) for k in PARTS if count[k]}


def _ask(sampler: Sampler, records: list[dict]) -> tuple[list[Answered], Shares]:
    asked = [(r["image"], q["question"], q["answer"]) for r in records for q in r["questions"]]
    answers = sampler.answer([[question(q, [image])] for image, q, _ in asked], max_tokens=24)
    cards = [
        Answered(image, q, a, truth, normalise(a) == normalise(truth))
        for (image, q, truth), a in zip(asked, answers)
    ]
    scores = score_answers((q, a, truth) for (_, q, truth), a in zip(asked, answers))
    kinds = dict.fromkeys(kind for _, kind in KINDS)
    return cards, {"all": _share([c.right for c in cards])} | {
        k: scores[k] for k in kinds if k in scores
    }


def _write(
    run_dir: pathlib.Path, run: RunConfig, results: dict[str, Shares], sections: list[Section]
) -> pathlib.Path:
    with atomic_file(run_dir / "composition.json") as temporary:
        temporary.write_text(json.dumps({"config": to_json(run), "results": results}, indent=1))
    tables = {
        key: [(part, f"{a / n:.0%}", f"{a} of {n}") for part, (a, n) in shares.items()]
        for key, shares in results.items()
    }
    lines = {
        k: results[k]["whole" if "whole" in results[k] else "all"] for k in results if "never" in k
    }
    headline = "; ".join(f"{k}: {a / n:.0%}" for k, (a, n) in lines.items())
    path = run_dir / "composition.html"
    curves, losses = report.read_curves(run_dir), make_system(run).losses
    report.write(path, "What was never seen together", headline, curves, losses, tables, sections)
    for key, rows in tables.items():
        print(key)
        for row in rows:
            print("   " + "  ".join(row))
    return path

"""Does a model put together what it never saw together? How that is scored.

Of the shipped pictures, gestures in skin tones (the split 'composition'); of the composed scenes,
things in numbers and places.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from unijax.evaluate.captioned import Ask, Pictures
from unijax.evaluate.judged import Answered, Drawn
from unijax.evaluate.naming import normalise
from unijax.evaluate.scenes import KINDS, score_answers, score_drawn
from unijax.evaluate.sprite_detector import SpriteDetector, background, colour_name

PARTS = ("all", "background", "count", "only", "position", "relation")

Shares = dict[str, tuple[int, int]]  # what was asked -> (right, of how many)


def seen_in_training(unseen: Pictures, train: Pictures) -> Pictures:
    """The same gestures, each once, in a tone that training showed."""
    wanted = set(unseen.bases)
    chosen, bases = [], Counter()
    for i, (base, tone) in enumerate(zip(train.bases, train.tones)):
        if base in wanted and tone and not bases[base]:
            bases[base] += 1
            chosen.append(i)
    pick = lambda values: [values[i] for i in chosen]  # noqa: E731
    return Pictures(pick(train.labels), pick(train.bases), pick(train.tones), train.pixels[chosen])


def drawn_shares(
    drawn: list[Drawn], found: list[int], pictures: Pictures, shipped: Pictures
) -> Shares:
    """Of all shipped pictures the right one is the nearest; the nearest has the right part."""
    return {
        "whole": _share([d.right for d in drawn]),
        "gesture": _share([shipped.bases[i] == b for i, b in zip(found, pictures.bases)]),
        "tone": _share([shipped.tones[i] == t for i, t in zip(found, pictures.tones)]),
    }


def named_shares(named: list[Answered], pictures: Pictures) -> Shares:
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


def judge_scenes(
    detector: SpriteDetector, records: list[dict], pictures: np.ndarray, size: int
) -> tuple[list[Drawn], Shares]:
    """Pictures of scenes against what their captions ask for."""
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


def judge_answers(ask: Ask, records: list[dict]) -> tuple[list[Answered], Shares]:
    """The answers to all questions about scenes, right where the words are the same."""
    asked = [(r["image"], q["question"], q["answer"]) for r in records for q in r["questions"]]
    answers = ask([(image, q) for image, q, _ in asked])
    cards = [
        Answered(image, q, a, truth, normalise(a) == normalise(truth))
        for (image, q, truth), a in zip(asked, answers)
    ]
    scores = score_answers((q, a, truth) for (_, q, truth), a in zip(asked, answers))
    kinds = dict.fromkeys(kind for _, kind in KINDS)
    return cards, {"all": _share([c.right for c in cards])} | {
        k: scores[k] for k in kinds if k in scores
    }


def _share(right: Sequence[bool]) -> tuple[int, int]:
    return int(np.sum(right)), len(right)

"""Captioned pictures, drawn from their names and named again, and whether that was right."""

import dataclasses
from collections.abc import Callable

import numpy as np

from unijax.data.builders import open_dataset
from unijax.data.document import ImageRef
from unijax.data.prepare import Preparation
from unijax.data.sources import Records
from unijax.data.tasks import QUESTIONS
from unijax.evaluate.judged import Answered, Drawn
from unijax.evaluate.naming import same_name
from unijax.evaluate.nearest import as_rows, nearest

# Without guidance: the unconditional stream of a small model that knows its pictures by heart is
# wrong with confidence, and guidance magnifies that (docs/log.md).
GUIDANCE = 1.0
QUESTION = QUESTIONS["name"][0]
SPLITS = ("train", "composition", "validation", "test")

Draw = Callable[[list[str]], np.ndarray]  # prompts -> uint8 [n, H, W, 3], one picture each
Ask = Callable[[list[tuple[np.ndarray, str]]], list[str]]  # (picture, question) -> answers


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Captioned pictures, decoded.

    Attributes:
      labels: names of one picture each.
      bases, tones: the parts of the name: what is shown, and its skin tone or "".
      pixels: uint8 [n, S, S, 3].
    """

    labels: list[str]
    bases: list[str]
    tones: list[str]
    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def load(records: Records, prepare: Preparation) -> Pictures:
    """Every record's name and picture, prepared as the ones to generate are."""
    names: list[list[str]] = [[], [], []]
    pixels = []
    for i in range(len(records)):
        record = records[i]
        pixels.append(prepare(ImageRef(record["id"], record["image"])))
        for field, values in zip(("label", "base_label", "skin_tone"), names):
            values.append(record[field] or "")
    return Pictures(*names, np.stack(pixels))


def load_shipped(prepare: Preparation) -> Pictures:
    """All pictures that this project ships: what a drawn one is compared with."""
    parts = [load(open_dataset("emoji", split), prepare) for split in SPLITS]
    names = ([n for p in parts for n in getattr(p, f)] for f in ("labels", "bases", "tones"))
    return Pictures(*names, np.concatenate([p.pixels for p in parts]))


def judge_drawn(draw: Draw, pictures: Pictures, shipped: Pictures) -> tuple[list[Drawn], list[int]]:
    """One picture for each name, and the shipped picture that is nearest to it."""
    drawn = draw(pictures.labels)
    place = {p.tobytes(): i for i, p in enumerate(shipped.pixels)}
    own = np.array([place[p.tobytes()] for p in pictures.pixels])
    found, rank = nearest(as_rows(drawn), as_rows(shipped.pixels), own)
    cards = [
        Drawn(label, picture, real, r == 0, "" if r == 0 else f"nearest: {shipped.labels[i]}")
        for label, picture, real, i, r in zip(
            pictures.labels, drawn, pictures.pixels, found.tolist(), rank.tolist()
        )
    ]
    return cards, found.tolist()


def judge_named(ask: Ask, pictures: Pictures) -> list[Answered]:
    """What is said to be in each picture."""
    answers = ask([(picture, QUESTION) for picture in pictures.pixels])
    return [
        Answered(p, QUESTION, answer, label, same_name(answer, label))
        for p, answer, label in zip(pictures.pixels, answers, pictures.labels)
    ]

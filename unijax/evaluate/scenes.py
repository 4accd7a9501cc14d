"""Scores of composed scenes: answers about them, and pictures drawn from their captions."""

from collections import Counter
from collections.abc import Iterable, Sequence

from unijax.evaluate.naming import same_name
from unijax.evaluate.sprite_detector import Found

# What a question is about, by its first words; the first that fits.
KINDS = (
    ("How many", "count"),
    ("Where is", "position"),
    ("What color", "background"),
    ("Is there", "presence"),
    ("What is in", "contents"),
    ("Is the", "relation"),
    ("What is", "relation"),
)


def kind_of(question: str) -> str:
    """What a question of a scene is about."""
    return next(kind for words, kind in KINDS if question.startswith(words))


def score_answers(asked: Iterable[tuple[str, str, str]]) -> dict[str, tuple[int, int]]:
    """How many answers are right, and how many were asked for, by kind of question.

    Args:
      asked: (question, the answer given, the true answer). Right is exact but for case, punctuation
        and spaces.
    """
    right, count = Counter(), Counter()
    for question, answer, truth in asked:
        kind = kind_of(question)
        count[kind] += 1
        right[kind] += same_name(answer, truth)
    return {kind: (right[kind], count[kind]) for kind in count}


def score_drawn(found: Sequence[Found], background: str, truth: dict, size: int) -> dict[str, bool]:
    """What of a scene was drawn as its caption says.

    Args:
      found: things in the picture (`SpriteDetector.find`), of the named kinds and others.
      background: name of its colour (`sprite_detector.colour_name`).
      truth: of the scene (`data.scenes.scene`).
      size: side of the picture.

    Returns:
      "background"; "count", the named things as often as the caption says; "only", nothing else
      besides; and, where the caption says one, "position" of the single thing and "relation" of the
      first to the second. "all" of them together.
    """
    counts = Counter(f.name for f in found)
    named = truth["counts"]
    scores = {
        "background": background == truth["background"],
        "count": all(counts[name] == n for name, n in named.items()),
        "only": all(name in named for name in counts),
    }
    if truth["position"]:
        (name,) = named
        places = [f.position(size) for f in found if f.name == name]
        scores["position"] = places == [truth["position"]]
    if truth["relation"]:
        first, second = ([f for f in found if f.name == name] for name in named)
        scores["relation"] = (
            len(first) == len(second) == 1 and relation(first[0], second[0]) == truth["relation"]
        )
    return scores | {"all": all(scores.values())}


def relation(first: Found, second: Found) -> str:
    """How the first is to the second, along the axis in which they are further apart."""
    across = first.middle[0] - second.middle[0]
    down = first.middle[1] - second.middle[1]
    if abs(across) >= abs(down):
        return "left" if across < 0 else "right"
    return "above" if down < 0 else "below"

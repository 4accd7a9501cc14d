"""The words of a scene: exact captions, questions and answers from what is seen."""

import dataclasses

from unijax.data.sprites import Sprite

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
POSITIONS = (
    ("top left", "top", "top right"),
    ("left", "center", "right"),
    ("bottom left", "bottom", "bottom right"),
)
PLACES = {
    "top left": "in the top left corner",
    "top": "at the top",
    "top right": "in the top right corner",
    "left": "on the left side",
    "center": "in the center",
    "right": "on the right side",
    "bottom left": "in the bottom left corner",
    "bottom": "at the bottom",
    "bottom right": "in the bottom right corner",
}
RELATIONS = {
    "left": ("to the left of", "to the right of"),
    "right": ("to the right of", "to the left of"),
    "above": ("above", "below"),
    "below": ("below", "above"),
}


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a scene shows.

    Attributes:
      colour: name of the background.
      counts: how many of each sprite, in the order in which captions name them.
      relation: of the first sprite to the second, a key of `RELATIONS`, or None.
      position: of the only thing, a key of `PLACES`, or None.
    """

    colour: str
    counts: dict[Sprite, int]
    relation: str | None = None
    position: str | None = None


def with_article(noun: str) -> str:
    """'a dog', 'an owl', 'a unicorn'."""
    vowel = noun[0] in "aeiou" and not noun.startswith("uni")
    return f"{'an' if vowel else 'a'} {noun}"


def amount(sprite: Sprite, count: int) -> str:
    """'a dog', 'two dogs'."""
    return with_article(sprite.singular) if count == 1 else f"{NUMBERS[count]} {sprite.plural}"


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:] + "."


def captions(seen: Seen) -> list[str]:
    """Ways to say the whole scene, the plainest first; the last one in two sentences."""
    background = f"{with_article(seen.colour)} background"
    things = " and ".join(amount(sprite, count) for sprite, count in seen.counts.items())
    first, *second = seen.counts
    if seen.relation:
        forth, back = RELATIONS[seen.relation]
        one, other = with_article(first.singular), with_article(second[0].singular)
        return [
            f"{one} {forth} {other} on {background}",
            f"{other} {back} {one} on {background}",
            _sentence(f"{things} on {background}")
            + f" The {first.singular} is {forth} the {second[0].singular}.",
        ]
    if seen.position:
        place = PLACES[seen.position]
        return [
            f"{things} {place} of {background}",
            f"{background} with {things} {place}",
            _sentence(f"{things} on {background}") + f" The {first.singular} is {place}.",
        ]
    return [
        f"{things} on {background}",
        f"{background} with {things}",
        _sentence(things) + f" The background is {seen.colour}.",
    ]


def questions(seen: Seen, absent: Sprite) -> list[dict[str, str]]:
    """Questions with short answers, as many 'yes' as 'no'. `absent` is not in the scene."""
    sprites = list(seen.counts)
    things = " and ".join(amount(sprite, count) for sprite, count in seen.counts.items())
    asked = [
        ("What color is the background?", seen.colour),
        ("What is in the picture?", things),
        (f"Is there {with_article(sprites[0].singular)} in the picture?", "yes"),
        (f"Is there {with_article(absent.singular)} in the picture?", "no"),
    ]
    if not seen.relation and not seen.position:
        total = sum(seen.counts.values())
        asked += [(f"How many {s.plural} are there?", NUMBERS[n]) for s, n in seen.counts.items()]
        asked.append(("How many things are in the picture?", NUMBERS[total]))
    if seen.relation:
        one, other = (sprite.singular for sprite in sprites)
        forth, back = RELATIONS[seen.relation]
        asked += [
            (f"What is {forth} the {other}?", with_article(one)),
            (f"What is {back} the {one}?", with_article(other)),
            (f"Is the {one} {forth} the {other}?", "yes"),
            (f"Is the {one} {back} the {other}?", "no"),
        ]
    if seen.position:
        asked.append((f"Where is the {sprites[0].singular}?", seen.position))
    return [{"question": question, "answer": answer} for question, answer in asked]

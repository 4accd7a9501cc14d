"""Remakes assets/text from a public package: WordNet's glosses as one-paragraph documents.

    python assets/text/make.py

Debian package wordnet-base (WordNet 3.0). One document is one sense: its first word, definition,
synonyms and examples. The commonest senses are taken first, then those with an example.
"""

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from unijax.data.builders.packages import unpack_apt
from unijax.data.builders.shards import split_of, write_shards
from unijax.data.document import stable_hash

PACKAGE = ("wordnet-base", "1:3.0-37")
DOCUMENTS = 45_000
SHARDS = 1

PARTS = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}
TYPES = {"1": "n", "2": "v", "3": "a", "4": "r", "5": "s"}  # the same, as sense keys name them
RUDE = re.compile(
    r"slur|offensive|obscen|disparag|derogat|vulgar|pejorative|insult|sexual|genital|intercourse|"
    r"prostitut|masturbat|buttocks|penis|vagina|excrement|feces|rape\b|\bsex\b",
    re.IGNORECASE,
)


def read_counts(folder: Path) -> Counter:
    """(word, part of speech, file, id) of a sense -> how often WordNet's corpora have it."""
    counts = Counter()
    for line in (folder / "cntlist.rev").read_text().splitlines():
        key, _, count = line.split()
        word, rest = key.split("%")
        kind, file, sense = rest.split(":")[:3]
        counts[word, TYPES[kind], file, sense] += int(count)
    return counts


def read_senses(folder: Path, counts: Counter) -> Iterator[dict]:
    """Every synset that is not an instance (a person, a place) with its words, gloss and count."""
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{part}").read_text().splitlines():
            if line.startswith("  "):  # the licence
                continue
            fields, gloss = line.split(" | ", 1)
            offset, file, kind, size, *rest = fields.split()
            names = [re.sub(r"\((a|p|ip)\)$", "", name) for name in rest[: 2 * int(size, 16) : 2]]
            ids = rest[1 : 2 * int(size, 16) : 2]
            if "@i" in rest:
                continue
            yield {
                "id": f"{kind}{offset}",
                "kind": kind,
                "words": [name.replace("_", " ") for name in names],
                "gloss": gloss.strip(),
                "count": sum(
                    counts[name.lower(), kind, file, f"{int(i, 16):02d}"]
                    for name, i in zip(names, ids)
                ),
            }


def sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else text + "."


def render(sense: dict) -> str:
    """One paragraph: word (part of speech): definition. Synonyms. "Examples." """
    examples = [e.strip() for e in re.findall(r'"([^"]+)"', sense["gloss"])]
    definition = sense["gloss"].split('"')[0].strip(" ;:,-")
    word, *others = dict.fromkeys(sense["words"])
    text = sentence(f"{word} ({PARTS[sense['kind']]}): {definition}")
    if others:
        text += f" Also {', '.join(others[:-1]) + ' or ' if others[1:] else ''}{others[-1]}."
    for example in examples[:2]:
        text += f' "{sentence(example[0].upper() + example[1:])}"'
    return text


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = unpack_apt(*PACKAGE, Path(temporary)) / "usr/share/wordnet"
        senses = list(read_senses(folder, read_counts(folder)))
    senses = [s for s in senses if not RUDE.search(s["gloss"]) and len(s["gloss"]) > 12]
    senses.sort(
        key=lambda s: (-min(s["count"], 1), '"' not in s["gloss"], stable_hash("sense", s["id"]))
    )
    records = [
        {"id": s["id"], "text": render(s), "split": split_of(s["words"][0].lower())}
        for s in senses[:DOCUMENTS]
    ]
    records.sort(key=lambda record: stable_hash("order", record["id"]))
    source = f"Debian {PACKAGE[0]} {PACKAGE[1]}"
    folder = Path(__file__).parent
    print(json.dumps(write_shards(folder, records, {}, lambda r: [], SHARDS, [source]), indent=1))
    print(sum(len(r["text"]) for r in records), "characters", len(senses), "senses to choose from")


if __name__ == "__main__":
    main()

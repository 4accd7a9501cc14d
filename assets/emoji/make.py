"""Remakes assets/emoji from public packages: Fluent emoji pictures with their CLDR names.

    python assets/emoji/make.py

Pictures: npm package @lobehub/fluent-emoji-3d (Microsoft's Fluent emoji, 256 px WebP).
Names, keywords, groups: npm package emojibase-data (CLDR). The two are joined by code points.
"""

import io
import json
import re
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from unijax.data.builders.packages import unpack_npm
from unijax.data.builders.shards import split_of, write_shards
from unijax.data.document import stable_hash

PICTURES = ("@lobehub/fluent-emoji-3d", "1.1.0")
NAMES = ("emojibase-data", "17.0.0")
SIZE = 64
QUALITY, ALPHA_QUALITY = 75, 60  # 32.7 dB on white; the whole stays under 5.2 MB
SHARDS = 2

TONES = ["light", "medium-light", "medium", "medium-dark", "dark"]

# Files of the package that hold another emoji's picture (no blond hair, another tone, another cat).
WRONG = {"1F471-1F3FD", "1F471-1F3FD-200D-2642", "1F471-1F3FD-200D-2640", "1FAC4-1F3FF", "1F431"}
# Its tones of one emoji that are named in the reverse order, as drawn in the files FB to FF.
REVERSED = {"1F6B5": ["1F3FF", "1F3FD", "1F3FE", "1F3FC", "1F3FB"]}

MIDDLE = {"1F3FC": "1F3FD", "1F3FD": "1F3FC"}  # medium-light and medium
DEAF = {"1F9CF-200D-2640": "1F9CF-200D-2642", "1F9CF-200D-2642": "1F9CF-200D-2640"}

# Variants of one base that their code points do not tell: pattern of the base label -> concept.
VARIANTS = [
    (r"(person|man|woman): .*|person|man|woman", "person"),
    (r"family.*", "family"),
    (r"kiss(: .*)?", "kiss"),
    (r"couple with heart.*", "couple with heart"),
    (r".* holding hands", "people holding hands"),
    (r"(boy|girl|child)", "child"),
    (r"(old man|old woman|older person)", "older person"),
    (r"(Santa|Mrs\.|Mx) Claus", "Mx Claus"),
    (r"(prince|princess|person with crown)", "person with crown"),
    (r"pregnant (woman|man|person)", "pregnant person"),
    (r"(breast-feeding|(wo)?man feeding baby|person feeding baby)", "person feeding baby"),
    (r"(wo)?man dancing", "person dancing"),
    (r"snowman( without snow)?", "snowman"),
]


def code_points(text: str) -> str:
    """Canonical code points of a file name or hexcode, variation selectors left out."""
    parts = [f"{int(part, 16):04X}" for part in re.split("[-_]", text)]
    return "-".join(part for part in parts if part != "FE0F")


def neutral(code: str) -> str:
    """The code points without skin tone, gender and direction: what variants share."""
    code = re.sub("-1F3F[B-F]|-200D-(2640|2642|27A1)", "", code)
    return re.sub("1F46[89]", "1F9D1", code)


def named_pictures(pictures: Path, entries: dict) -> dict[str, Path]:
    """code points -> file. Where the package has two files for one emoji, the fully named one."""
    found = {}
    for path in sorted(pictures.glob("*.webp"), key=lambda p: (-len(p.name), p.name)):
        code = code_points(path.stem)
        if code not in entries:
            code += "-E007F"  # flags of regions lack their closing tag in the file name
        found.setdefault(code, path)
    return found


def load(path: Path) -> Image.Image:
    """A picture as 256x256 RGBA (four of them are 264 high)."""
    picture = Image.open(path).convert("RGBA")
    left, top = (picture.width - 256) // 2, (picture.height - 256) // 2
    return picture.crop((left, top, left + 256, top + 256))


def is_brighter(path: Path, other: Path) -> bool:
    """Whether `path` is the brighter one where the two pictures differ."""
    white = Image.new("RGBA", (256, 256), "white")
    one, two = (
        np.asarray(Image.alpha_composite(white, load(p)).convert("L"), float) for p in (path, other)
    )
    differ = np.abs(one - two) > 20
    return one[differ].mean() > two[differ].mean()


def as_drawn(found: dict[str, Path]) -> dict[str, Path]:
    """Puts right what the package names wrongly: code points of what is drawn -> file.

    Looked at and measured: medium-light and medium are exchanged in nearly every emoji that has
    skin tones (the brighter of the two is medium-light), the deaf man and woman are exchanged, one
    emoji has its tones reversed, and a few files hold another emoji's picture.
    """
    drawn = {}
    for code, path in found.items():
        base, tone = re.sub("-1F3F[B-F]", "", code), re.search("1F3F[B-F]", code)
        if code in WRONG:
            continue
        if base in REVERSED and tone:
            code = code.replace(tone[0], REVERSED[base]["BCDEF".index(tone[0][-1])])
        elif tone and tone[0] in MIDDLE:
            twin = code.replace(tone[0], MIDDLE[tone[0]])
            brighter = twin not in WRONG and is_brighter(path, found[twin])
            if brighter != (tone[0] == "1F3FC"):
                code = twin
        if base in DEAF:
            code = code.replace(base[-4:], DEAF[base][-4:])
        drawn[code] = path
    return drawn


def encode(path: Path) -> bytes:
    """A picture as 64x64 RGBA WebP."""
    out = io.BytesIO()
    load(path).resize((SIZE, SIZE), Image.Resampling.LANCZOS).save(
        out, "WEBP", quality=QUALITY, alpha_quality=ALPHA_QUALITY, method=6
    )
    return out.getvalue()


def concept_names(found: dict, entries: dict) -> dict[str, str]:
    """code points -> concept: one name for all skin tones, genders and directions of a base."""
    leaders = {}
    for code in sorted(found, key=lambda c: (c != neutral(c), entries[c]["order"])):
        leaders.setdefault(neutral(code), entries[code]["base_label"])
    names = {}
    for code in found:
        label = leaders[neutral(code)]
        rules = (name for pattern, name in VARIANTS if re.fullmatch(pattern, label))
        names[code] = next(rules, label)
    return names


def read_entries(data: Path) -> dict[str, dict]:
    """code points -> label, base label, tone, keywords, category, subcategory, order."""
    groups = json.loads((data / "meta/groups.json").read_text())
    category = {i: name.replace("-", " and ") for i, name in groups["groups"].items()}
    entries = {}
    for base in json.loads((data / "en/data.json").read_text()):
        if "group" not in base:  # bare regional letters
            continue
        for entry in [base, *base.get("skins", [])]:
            tone = entry.get("tone")
            entries[code_points(entry["hexcode"])] = {
                "label": entry["label"],
                "base_label": base["label"],
                "skin_tone": TONES[tone - 1] if isinstance(tone, int) else None,
                "keywords": base.get("tags", []),
                "category": category[str(base["group"])],
                "subcategory": groups["subgroups"][str(base["subgroup"])].replace("-", " "),
                "order": entry["order"],
            }
    return entries


def held_out_pairs(records: list[dict]) -> set[tuple[str, str]]:
    """(concept, skin tone) pairs kept for the test of composition: 12% of those that qualify.

    Of the train concepts that have all five tones, three in five lose one tone each, the tones in
    turn: every concept keeps at least four tones, and every tone almost nine concepts in ten.
    """
    tones = {}
    for record in records:
        if record["split"] == "train" and record["skin_tone"]:
            tones.setdefault(record["concept"], set()).add(record["skin_tone"])
    whole = [concept for concept, seen in tones.items() if len(seen) == len(TONES)]
    whole.sort(key=lambda concept: stable_hash("held out pair", concept))
    chosen = whole[: len(whole) * 3 // 5]
    return {(concept, TONES[i % len(TONES)]) for i, concept in enumerate(chosen)}


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        pictures = unpack_npm(*PICTURES, Path(temporary)) / "assets"
        entries = read_entries(unpack_npm(*NAMES, Path(temporary)))
        found = named_pictures(pictures, entries)
        found = as_drawn(found)
        concepts = concept_names(found, entries)
        files = {f"{code.lower()}.webp": encode(path) for code, path in found.items()}
    records = []
    for code in sorted(found, key=lambda code: entries[code]["order"]):
        name = code.lower()
        entry = {key: value for key, value in entries[code].items() if key != "order"}
        record = {"id": name, "concept": concepts[code], **entry, "file": f"{name}.webp"}
        records.append({**record, "split": split_of(concepts[code])})
    pairs = held_out_pairs(records)
    for record in records:
        record["held_out_pair"] = (record["concept"], record["skin_tone"]) in pairs
    sources = [f"npm {name} {version}" for name, version in (PICTURES, NAMES)]
    folder = Path(__file__).parent
    manifest = write_shards(folder, records, files, lambda r: [r["file"]], SHARDS, sources)
    print(json.dumps(manifest, indent=1))


if __name__ == "__main__":
    main()

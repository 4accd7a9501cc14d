"""Remakes assets/questions from a public package: a subset of easy-VQA.

    python assets/questions/make.py

PyPI package easy-vqa: one coloured shape on a pale background, 64x64, with about ten questions
each. Pictures are kept bit for bit, as lossless WebP.
"""

import io
import json
import tempfile
from pathlib import Path

from PIL import Image

from unijax.data.builders.packages import unpack_pip
from unijax.data.builders.shards import write_shards
from unijax.data.document import stable_hash

PACKAGE = ("easy-vqa", "1.0")
TRAIN, VALIDATION, TEST = 1400, 150, 250  # validation is taken from the package's train pictures
SHARDS = 1


def read_pictures(folder: Path, split: str) -> list[dict]:
    """The pictures of a split with their questions, in an order drawn by hash."""
    records = {}
    for question, answer, picture in json.loads((folder / split / "questions.json").read_text()):
        record = records.setdefault(picture, {"id": f"{split}-{picture}", "questions": []})
        entry = {"question": question, "answer": answer}
        if entry not in record["questions"]:
            record["questions"].append(entry)
        record["path"] = folder / split / "images" / f"{picture}.png"
    return sorted(records.values(), key=lambda record: stable_hash("question", record["id"]))


def encode(path: Path) -> bytes:
    out = io.BytesIO()
    Image.open(path).convert("RGB").save(out, "WEBP", lossless=True, quality=100, method=6)
    return out.getvalue()


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = unpack_pip(*PACKAGE, Path(temporary)) / "easy_vqa/data"
        train, test = read_pictures(folder, "train"), read_pictures(folder, "test")
        parts = {"train": train[:TRAIN], "validation": train[TRAIN : TRAIN + VALIDATION]}
        parts["test"] = test[:TEST]
        records, files = [], {}
        for split, pictures in parts.items():
            for record in pictures:
                name = f"{record['id']}.webp"
                files[name] = encode(record.pop("path"))
                records.append({**record, "file": name, "split": split})
    source = f"PyPI {PACKAGE[0]} {PACKAGE[1]}"
    folder = Path(__file__).parent
    manifest = write_shards(folder, records, files, lambda r: [r["file"]], SHARDS, [source])
    print(json.dumps(manifest, indent=1), sum(len(r["questions"]) for r in records), "questions")
    print(len(set(files.values())), "distinct pictures")


if __name__ == "__main__":
    main()

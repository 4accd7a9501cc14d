"""The reference curve of fine-tuning: a demo's export, imported, trained on pictures it never saw.

    python bench/finetune_reference.py DEMO_RUN FOLDER        # minutes on 2 cores; prints the curve

The records are written as a user would: PNG files and a line of JSON each, with a caption and a
question. Trained on: people and gestures in up to five skin tones. Held out: one tone of each.
"""

import argparse
import json
import pathlib
import subprocess
import sys

from unijax.data.builders import open_dataset

PEOPLE = 24
HELD_OUT_TONE = "medium"
OVERRIDES = (
    "dtype=float32", "remat=none", "stage.steps=400", "stage.optimizers.main.learning_rate=1e-3",
    "data.row_length=512", "data.rows=2", "data.slots.und=6", "data.slots.gen=6",
    "data.p_first_sentence=1.0", "loop.log_every=20", "loop.eval_every=100", "loop.save_every=100",
)  # fmt: skip
SHOWN = ("code/loss", "understanding/loss")


def write_records(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path, list[int]]:
    """Pictures, `train.jsonl` and `held_out.jsonl`, and how many records each has."""
    records = open_dataset("emoji", "train")
    by_base: dict[str, list[dict]] = {}
    for i in range(len(records)):
        record = records[i]
        if record["skin_tone"]:
            by_base.setdefault(record["base_label"], []).append(record)
    whole = [b for b, some in by_base.items() if HELD_OUT_TONE in {r["skin_tone"] for r in some}]
    lines: dict[bool, list[str]] = {True: [], False: []}
    for base in sorted(whole)[:PEOPLE]:
        for record in by_base[base]:
            name = f"{record['id']}.png"
            (folder / name).write_bytes(record["image"])
            shared = {"image": name, "caption": record["label"]}
            asked = {"question": "Who or what is this?", "answer": record["label"]}
            lines[record["skin_tone"] == HELD_OUT_TONE].append(json.dumps(shared | asked))
    paths = folder / "train.jsonl", folder / "held_out.jsonl"
    for path, some in zip(paths, (lines[False], lines[True])):
        path.write_text("\n".join(some) + "\n")
    return *paths, [len(lines[False]), len(lines[True])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=pathlib.Path, help="run directory of `make demo`")
    parser.add_argument("folder", type=pathlib.Path, help="new; everything is written here")
    options = parser.parse_args()
    folder = options.folder
    folder.mkdir(parents=True)
    train, held_out, counts = write_records(folder)
    unijax = [sys.executable, "-m", "unijax.main.cli"]
    imported, run = folder / "imported", folder / "run"
    subprocess.run([*unijax, "import", options.demo / "export", "--run-dir", imported], check=True)
    subprocess.run(
        [*unijax, "finetune", "--config", "configs/finetune.py", "--init-from", imported, "--data",
         train, "--held-out", held_out, "--run-dir", run, *OVERRIDES],
        check=True,
    )  # fmt: skip
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    of = lambda prefix: {  # noqa: E731
        row["step"]: [row[prefix + name] for name in SHOWN]
        for row in rows
        if prefix + SHOWN[0] in row
    }
    trained, validation = of(""), of("validation/")
    print(f"{counts[0]} records to train on, {counts[1]} held out")
    print("| step | codes | answers | codes, held out | answers, held out |")
    print("| --- | --- | --- | --- | --- |")
    for step in (20, *validation):
        values = trained[step] + validation.get(step, [])
        cells = [f"{v:.3f}" for v in values] + ["-"] * (4 - len(values))
        print(f"| {step} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()

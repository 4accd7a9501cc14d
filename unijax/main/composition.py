"""`unijax composition`: does a trained model put together what it never saw together?

Two kinds of pairs are kept from training. Of the shipped pictures, some gestures in some skin tones
(the split 'composition'); of the composed scenes, some things in some numbers and places. Each is
drawn from its words and named from its picture, beside as many that training did show.
"""

import json
import pathlib

import numpy as np
from tqdm import tqdm

from unijax.core.files import atomic_file
from unijax.core.record import to_json
from unijax.data.builders import open_dataset
from unijax.data.config import preparation
from unijax.data.scenes import SceneConfig, Scenes
from unijax.data.sprites import load_sprites
from unijax.evaluate.captioned import judge_drawn, judge_named, load, load_shipped
from unijax.evaluate.composed import (
    Shares,
    drawn_shares,
    judge_answers,
    judge_scenes,
    named_shares,
    seen_in_training,
)
from unijax.evaluate.sprite_detector import SpriteDetector
from unijax.main import report
from unijax.main.report import cards, section, table
from unijax.main.run import RunConfig, make_system, resolve
from unijax.main.use import asks, draws, open_sampler
from unijax.sample.logits import Sampling
from unijax.sample.sampler import Sampler
from unijax.train.checkpoint import read_run

SCENES = 128  # of each split
SHOWN = 36  # cards of a section
SCENE_SAMPLING = Sampling(temperature=1.0, top_p=0.95)


def composition(run_dir: pathlib.Path) -> pathlib.Path:
    """Writes composition.json and composition.html into the run directory; returns the latter.

    Raises:
      UserError: for pictures too small for scenes.
    """
    run = resolve(read_run(run_dir)["config"])
    prepare = preparation(run.data, make_system(run).layout.by_role["gen"])
    size = prepare.size
    config = SceneConfig(size=size)
    sampler = open_sampler(run_dir)
    shipped = load_shipped(prepare)
    unseen = load(open_dataset("emoji", "composition"), prepare)
    seen = seen_in_training(unseen, load(open_dataset("emoji", "train"), prepare))
    bar = tqdm(total=10, unit="part", dynamic_ncols=True)

    def begin(part: str) -> None:
        bar.set_description(part)

    results: dict[str, Shares] = {}
    sections: list[str] = []
    for title, pictures in (("seen in training", seen), ("never seen together", unseen)):
        begin(f"drawing {len(pictures)} pictures {title}")
        drawn, found = judge_drawn(draws(sampler), pictures, shipped)
        bar.update(1)
        begin(f"naming {len(pictures)} pictures {title}")
        named = judge_named(asks(sampler), pictures)
        bar.update(1)
        key = f"Gestures and skin tones {title}"
        results[f"{key}, drawn"] = drawn_shares(drawn, found, pictures, shipped)
        results[f"{key}, named"] = named_shares(named, pictures)
        note = "Greedy, beside the true picture."
        sections.append(section(f"{key}, drawn", note, cards(drawn[:SHOWN])))
        sections.append(section(f"{key}, named", "Greedy.", cards(named[:SHOWN])))
    detector = SpriteDetector(load_sprites("train"), size)
    for title, split in (("seen in training", "validation"), ("never seen", "composition")):
        scenes = Scenes(split=split, seed=run.data.seed, config=config)
        records = [scenes[i] for i in range(SCENES)]
        key = f"Scenes with counts and places {title}"
        begin(f"drawing {SCENES} scenes {title}")
        made = _scene_pictures(sampler, records)
        bar.update(1)
        begin(f"judging scenes {title}")
        for how, pictures in made.items():
            shown, results[f"{key}, {how}"] = judge_scenes(detector, records, pictures, size)
            if how == "drawn":
                note = f"From the plainest caption, {SCENE_SAMPLING}, beside a true picture."
                sections.append(section(f"{key}, drawn", note, cards(shown[:SHOWN])))
        bar.update(1)
        begin(f"asking about scenes {title}")
        shown, results[f"{key}, answered"] = judge_answers(asks(sampler), records)
        sections.append(section(f"{key}, answered", "Greedy.", cards(shown[:SHOWN])))
        bar.update(1)
    bar.close()
    return _write(run_dir, run, results, sections)


def _scene_pictures(sampler: Sampler, records: list[dict]) -> dict[str, np.ndarray]:
    """The true pictures, what the tokenizer alone makes of them, and the drawn ones.

    The drawn ones are samples: a caption leaves open where its things stand, so that the most
    likely code of nearly every place is background, and a greedy picture empty.
    """
    true = np.stack([r["image"] for r in records])
    drawn = draws(sampler, SCENE_SAMPLING)([r["captions"][0] for r in records])
    return {
        "true pictures": true,
        "rebuilt by the tokenizer": sampler.rebuild(true),
        "drawn": drawn,
    }


def _write(
    run_dir: pathlib.Path, run: RunConfig, results: dict[str, Shares], sections: list[str]
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
    parts = [section("Losses", "", report.plot(curves, losses))]
    parts += [section(key, "", table(rows)) for key, rows in tables.items()]
    report.write(path, "What was never seen together", headline, parts + sections)
    for key, rows in tables.items():
        print(key)
        for row in rows:
            print("   " + "  ".join(row))
    return path

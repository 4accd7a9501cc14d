"""Encoders of Janus at micro scale: see docs/encoders.md.

    python -m bench.encoder_study --dir runs/encoders         # all: hours; repeat to go on
    python -m bench.encoder_study --dir runs/encoders --part towers
    python -m bench.encoder_study --dir runs/small --small    # minutes: every step, no result

Three parts: `towers` trains what the others read by (the semantic tokenizer, an EVA-02 by masked
image modelling, an EVA-CLIP from it); `ablations` are A to F of Janus's table 5
(configs/janus_ablations.py), `encoders` five towers beside three sizes of decoders
(configs/encoder_study.py), three seeds each through `unijax sweep`. Tables (CSV) and a figure go to
docs/study, with --small beside the runs.
"""

import itertools
import pathlib
from collections.abc import Mapping

from matplotlib import pyplot as plt

from bench.study import beside, command, losses_by_seed, run, spread, width_of
from unijax.main.config import load
from unijax.main.run import resolve
from unijax.main.train import train
from unijax.scaling import table
from unijax.scaling.paper import COLUMN, style

# What they are called, and the config that trains them.
TOWERS = {
    "se": "configs/semantic_tokenizer.py:demo",
    "mim": "configs/mim_demo.py",
    "clip": "configs/clip_demo.py",
}
ARMS = {
    "A": "VQ for both",
    "B": "semantic for both",
    "C": "semantic, understanding alone",
    "D": "Janus",
    "E": "SigLIP, understanding alone",
    "F": "VQ, generation alone",
}
READ, DRAWN = "ABCDE", "ABDF"  # arms that answer, and that draw
ENCODERS = ("siglip", "eva_clip", "eva02", "vq", "random")
Found = Mapping[str, table.Runs]


def towers(directory: pathlib.Path, out: pathlib.Path, small: bool) -> None:
    """Runs in `directory`, each from what it begins with."""
    for name, spec in TOWERS.items():
        config = load(spec).unlock()
        if small:
            config.stage.steps = 2
            config.validation.batches = 1
        if name == "clip":
            config.init.vision_model = str(directory / "mim")
        train(resolve(config.lock()), directory / name)


def ablations(directory: pathlib.Path, out: pathlib.Path, small: bool) -> None:
    """A to F, and what each differs by from D at the same seed."""
    ending, tokenizer = "_small" * small, directory / "se"
    se = [
        f"init.vision_model/vqmodel={tokenizer}:generator",
        f"init.vision_model/semantic={tokenizer}:semantic",
    ]
    found = {
        letter: run(
            f"configs/janus_ablations.py:{letter},micro{ending}",
            directory / letter,
            se if letter in "BC" else (),
        )
        for letter in ARMS
    }
    keep(found, "ablation", out / "ablations.csv")
    print("| | | answers | less D | image codes | less D |")
    print("|---|---|---|---|---|---|")
    for letter, runs in found.items():
        cells = [letter, ARMS[letter]]
        for loss, has in (("understanding", READ), ("code", DRAWN)):
            if letter in has:
                apart = "" if letter == "D" else beside(runs, found["D"], loss)
                cells += [spread(losses_by_seed(runs, loss)), apart]
            else:
                cells += ["", ""]
        print(f"| {' | '.join(cells)} |")


def encoders(directory: pathlib.Path, out: pathlib.Path, small: bool) -> None:
    """Every encoder at every width, and what each differs by from SigLIP at the same seed."""
    ending = "_small" * small
    begins = {"eva02": directory / "mim", "eva_clip": directory / "clip"}
    found = {
        name: run(
            f"configs/encoder_study.py:{name}{ending}",
            directory / name,
            [f"init.vision_model={begins[name]}"] if name in begins else (),
        )
        for name in ENCODERS
    }
    keep(found, "encoder", out / "encoders.csv")
    widths = sorted({*found["siglip"]["size"]}, key=width_of)
    print("| encoder | " + " | ".join(f"width {width_of(w)} | less siglip" for w in widths) + " |")
    print("|---" * (1 + 2 * len(widths)) + "|")
    for name, runs in found.items():
        cells = [name]
        for width in widths:
            here, other = (x.where(x["size"] == width) for x in (runs, found["siglip"]))
            losses = losses_by_seed(here, "understanding")
            apart = "" if name == "siglip" else beside(here, other, "understanding")
            cells += [spread(losses), apart]
        print(f"| {' | '.join(cells)} |")
    draw(found, out / "encoders.svg")


def keep(found: Found, column: str, path: pathlib.Path) -> None:
    """All runs as one CSV, `column` saying whose they are."""
    rows = [
        {column: name} | {c: runs[c][i] for c in runs.columns}
        for name, runs in found.items()
        for i in range(len(runs))
    ]
    table.write(path, rows)


def draw(found: Found, path: pathlib.Path) -> None:
    """The answers' loss against the decoder's width, a line for each encoder, a dot for a seed."""
    with style():
        figure, axes = plt.subplots(figsize=(COLUMN, 2.8), layout="constrained")
        for (name, runs), marker in zip(found.items(), itertools.cycle("osD^v")):
            widths = sorted({*runs["size"]}, key=width_of)
            at = [losses_by_seed(runs.where(runs["size"] == w), "understanding") for w in widths]
            xs = [width_of(w) for w in widths]
            (line,) = axes.plot(xs, [x.mean() for x in at], f"{marker}-", ms=3, label=name)
            for x, losses in zip(xs, at):
                axes.plot([x] * len(losses), losses, ".", ms=2, color=line.get_color())
        axes.set_xscale("log", base=2)
        axes.set_xticks(xs, [f"{x}" for x in xs])
        axes.set_xlabel("width of the decoder")
        axes.set_ylabel("held-out loss of answers (nats)")
        axes.legend()
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


PARTS = {"towers": towers, "ablations": ablations, "encoders": encoders}


if __name__ == "__main__":
    command(PARTS, __doc__)

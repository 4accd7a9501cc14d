"""LMFusion's ablation at micro scale, whole: docs/lmfusion.md says what came of it.

    python -m bench.lmfusion_study --dir runs/lmfusion_study           # an hour; repeat to go on
    python -m bench.lmfusion_study --dir runs/lmfusion_small --small   # minutes, no result

A base is trained on words; every separation at every rate of the text side then begins from it
(configs/lmfusion_study.py), three seeds each. All runs go to docs/study/lmfusion.csv and their
picture to lmfusion.svg, with --small beside the runs; the page's table is printed.
"""

import argparse
import itertools
import pathlib

from matplotlib import pyplot as plt

from bench.study import DOCS, difference, losses_by_seed, run
from unijax.main.config import load
from unijax.main.run import resolve
from unijax.main.train import train
from unijax.scaling import table
from unijax.scaling.paper import COLUMN, ONE, THREE, TWO, style

CONFIG = "configs/lmfusion_study.py"
SEPARATIONS, RATIOS = ("none", "shallow", "deep"), ("0", "0.1", "1")
CHOSEN = ("deep", "0")  # the paper's
COLORS = dict(zip(SEPARATIONS, (THREE, TWO, ONE)))
MARKERS = dict(zip(RATIOS, "os^"))
Arm = tuple[str, str]


def study(directory: pathlib.Path, small: bool) -> dict[Arm, table.Runs]:
    """Runs what is not done, the base first."""
    ending, base = "_small" * small, directory / "base"
    train(resolve(load(f"{CONFIG}:base{ending}")), base)
    begins = [f"init.language_model={base}:language_model"]
    return {
        (separation, ratio): run(
            f"{CONFIG}:{separation},{ratio}{ending}", directory / f"{separation}_{ratio}", begins
        )
        for separation, ratio in itertools.product(SEPARATIONS, RATIOS)
    }


def keep(arms: dict[Arm, table.Runs], path: pathlib.Path) -> None:
    """All runs as one CSV."""
    rows = [
        {"separation": separation, "ratio": float(ratio)} | {n: runs[n][i] for n in runs.columns}
        for (separation, ratio), runs in arms.items()
        for i in range(len(runs))
    ]
    table.write(path, rows)


def tell(arms: dict[Arm, table.Runs]) -> None:
    """Losses of every arm, and what they differ by from the paper's choice at the same seed."""
    print("| separation | text side | text loss | less the base's | noise loss | less deep, 0 |")
    print("|---|---|---|---|---|---|")
    base = losses_by_seed(arms[CHOSEN], "text").mean()  # a frozen text side is the base
    for (separation, ratio), runs in arms.items():
        text, noise = (losses_by_seed(runs, loss) for loss in ("text", "noise"))
        mean, low, high = difference(runs, arms[CHOSEN], "noise")
        beside = "" if (separation, ratio) == CHOSEN else f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"
        scatter = f"{text.mean():.4f} ± {text.std(ddof=1):.4f}"
        print(
            f"| {separation} | {ratio} | {scatter} | {text.mean() - base:+.4f} | "
            f"{noise.mean():.4f} ± {noise.std(ddof=1):.4f} | {beside} |"
        )


def draw(arms: dict[Arm, table.Runs], path: pathlib.Path) -> None:
    """Noise loss against text loss, a mark for each seed."""
    with style():
        figure, axes = plt.subplots(figsize=(COLUMN, 2.8), layout="constrained")
        for (separation, ratio), runs in arms.items():
            axes.plot(
                losses_by_seed(runs, "text"), losses_by_seed(runs, "noise"), MARKERS[ratio],
                color=COLORS[separation], mfc="none", label=f"{separation}, {ratio}",
            )  # fmt: skip
        axes.set_xlabel("held-out text loss (nats)")
        axes.set_ylabel("held-out noise loss")
        figure.legend(title="separation, text side's rate", ncols=3, loc="outside upper center")
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=pathlib.Path, required=True, help="for the runs")
    parser.add_argument("--small", action="store_true", help="minutes, to see that all works")
    args = parser.parse_args()
    out = args.dir / "out" if args.small else DOCS
    out.mkdir(parents=True, exist_ok=True)
    arms = study(args.dir, args.small)
    keep(arms, out / "lmfusion.csv")
    tell(arms)
    draw(arms, out / "lmfusion.svg")


if __name__ == "__main__":
    main()

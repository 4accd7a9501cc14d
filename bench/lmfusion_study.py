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

from bench.study import DOCS, beside, losses_by_seed, run, spread
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
Study = dict[Arm, tuple[table.Runs, table.Runs]]  # of equal tokens, and of equal compute


def study(directory: pathlib.Path, small: bool) -> Study:
    """Runs what is not done, the base first."""
    ending, base = "_small" * small, directory / "base"
    train(resolve(load(f"{CONFIG}:base{ending}")), base)
    begins = [f"init.language_model={base}:language_model"]
    found = {}
    for separation, ratio in itertools.product(SEPARATIONS, RATIOS):
        spec = f"{CONFIG}:{separation},{ratio}{ending}"
        found[separation, ratio] = lengths(run(spec, directory / f"{separation}_{ratio}", begins))
    return found


def lengths(runs: table.Runs) -> tuple[table.Runs, table.Runs]:
    """The shorter runs and the longer: the same where one length was run."""
    tokens = runs["tokens"]
    return runs.where(tokens == tokens.min()), runs.where(tokens == tokens.max())


def keep(arms: Study, path: pathlib.Path) -> None:
    """All runs as one CSV."""
    rows = {}
    for (separation, ratio), both in arms.items():
        for runs in both:
            for i in range(len(runs)):
                row = {"separation": separation, "ratio": float(ratio)}
                row |= {name: runs[name][i] for name in runs.columns}
                rows[separation, ratio, row["run_id"]] = row
    table.write(path, list(rows.values()))


def tell(arms: Study) -> None:
    """Losses of every arm, and what they differ by from the paper's choice at the same seed."""
    print("| separation | text side | text loss | less the base's | noise loss, equal tokens |"
          " less deep, 0 | noise loss, equal compute | less deep, 0 |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    base = losses_by_seed(arms[CHOSEN][0], "text").mean()  # a frozen text side is the base
    for (separation, ratio), both in arms.items():
        text = losses_by_seed(both[0], "text")
        cells = [separation, ratio, spread(text), f"{text.mean() - base:+.4f}"]
        for runs, chosen in zip(both, arms[CHOSEN]):
            apart = beside(runs, chosen, "noise") if runs is not chosen else ""
            cells += [spread(losses_by_seed(runs, "noise")), apart]
        print(f"| {' | '.join(cells)} |")


def draw(arms: Study, path: pathlib.Path) -> None:
    """Noise loss against text loss at equal compute, a mark for each seed."""
    with style():
        figure, axes = plt.subplots(figsize=(COLUMN, 2.8), layout="constrained")
        for (separation, ratio), (_, runs) in arms.items():
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

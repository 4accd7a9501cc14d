"""The micro study, whole: `make study`; docs/study.md says what came of it.

    python -m bench.study --dir runs/study                  # all: hours on 2 cores; repeat to go on
    python -m bench.study --dir runs/study --part together  # ladder, epochs, together or rate
    python -m bench.study --dir runs/small --small          # minutes: every step of it, no result

Four parts, each a sweep or two through `unijax sweep`: the ladder of sizes and budgets and its
laws; one of its runs on a quarter of the data; understanding and generation together against
apart; the learning rate that is best at each width. Tables (CSV) and figures (SVG) go to
docs/study/, with --small beside the runs.
"""

import argparse
import dataclasses
import itertools
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import scipy.stats
from matplotlib import colormaps
from matplotlib import pyplot as plt
from matplotlib.ticker import FixedLocator, FormatStrFormatter

from unijax.main.fit import fit
from unijax.main.scaling_report import report
from unijax.main.sweep import sweep
from unijax.scaling import table
from unijax.scaling.paper import PAGE, SIZES, style
from unijax.scaling.repeated import ONCE
from unijax.scaling.study import FitConfig
from unijax.scaling.validate import FEWEST

DOCS = pathlib.Path("docs/study")
LOSSES = ("text", "understanding", "code")
FIGURES = ("loss_against_compute", "isoflop_valleys")  # that docs/study.md shows
ARMS = ("together", "understanding", "generation")
Part = Callable[[pathlib.Path, pathlib.Path, bool], None]  # runs, tables and figures, whether small
NAMES = {"text": "text", "understanding": "understanding answers", "code": "image codes"}


def run(config: str, directory: pathlib.Path, overrides: Sequence[str] = ()) -> table.Runs:
    """The runs of a sweep. All parts show the same pictures: the encoders' outputs are shared."""
    shared = directory.parent / "cache"
    shared.mkdir(parents=True, exist_ok=True)
    directory.mkdir(exist_ok=True)
    if not (directory / "cache").exists():
        os.symlink(os.path.relpath(shared, directory), directory / "cache")
    sweep(config, directory, list(overrides), None)
    return table.read(directory / "runs.parquet")


def keep(runs: table.Runs, path: pathlib.Path) -> None:
    """The table as CSV."""
    names = list(runs.columns)
    table.write(path, [{n: runs[n][i] for n in names} for i in range(len(runs))])


def ladder(directory: pathlib.Path, out: pathlib.Path, small: bool) -> None:
    """Sizes times budgets, the laws and their page."""
    config = "configs/scaling_micro.py" + ":small" * small
    runs = run(config, directory / "ladder")
    keep(runs, out / "ladder.csv")
    # Hidden and predicted: the five runs of the largest budget.
    choices = FitConfig(drop_failed=True, hold_out=5)
    if small:
        choices = FitConfig(draws=20, hold_out=0)
    fit(out / "ladder.csv", directory / "fit", choices)
    report(directory / "fit", "Micro Janus models on composed scenes")
    if "epochs" in runs and FEWEST <= (runs["epochs"] <= ONCE).sum() < len(runs):
        again = dataclasses.replace(choices, repeated=True)
        fit(out / "ladder.csv", directory / "fit_repeated", again)
        report(directory / "fit_repeated", "Micro Janus models, with a term for repeated data")
    # Two sizes make no valley.
    for figure, loss in itertools.product(FIGURES[:1] if small else FIGURES, runs.losses):
        name = f"janus_{loss}_{figure}.svg"
        shutil.copyfile(directory / "fit" / "figures" / name, out / name)


def epochs(directory: pathlib.Path, out: pathlib.Path, small: bool) -> None:
    """Beside the run of the ladder that has its size and, nearly, its tokens."""
    ending = ":small" * small
    runs = run(f"configs/scaling_epochs.py{ending}", directory / "epochs")
    keep(runs, out / "epochs.csv")
    fresh = run(f"configs/scaling_micro.py{ending}", directory / "ladder")
    fresh = fresh.where(fresh["size"] == runs["size"][0])
    beside = int(np.argmin(np.abs(np.log(fresh["tokens"] / runs["tokens"][0]))))
    passes = [f"{x:.2f} passes" for x in (fresh["epochs"][beside], runs["epochs"][0])]
    print(f"| held-out loss | {passes[0]} | {passes[1]} | difference |")
    print("|---|---|---|---|")
    for loss in LOSSES:
        once, again = fresh.loss(loss)[beside], runs.loss(loss)[0]
        print(f"| {NAMES[loss]} | {once:.4f} | {again:.4f} | {again - once:+.4f} |")


def together(directory: pathlib.Path, out: pathlib.Path, small: bool) -> None:
    """Pairs of runs that differ in what else they were trained on, by seed."""
    config, ending = "configs/scaling_together.py", "_small" * small
    found = {arm: run(f"{config}:{arm}{ending}", directory / arm) for arm in ARMS}
    for arm, runs in found.items():
        keep(runs, out / f"{arm}.csv")
    print("| held-out loss | together | alone | together - alone | 95% interval |")
    print("|---|---|---|---|---|")
    for loss, arm in (("understanding", "understanding"), ("code", "generation")):
        both, alone = (losses_by_seed(found[k], loss).mean() for k in ("together", arm))
        mean, low, high = difference(found["together"], found[arm], loss)
        ends = f"[{low:+.4f}, {high:+.4f}]"
        print(f"| {NAMES[loss]} | {both:.4f} | {alone:.4f} | {mean:+.4f} | {ends} |")


def difference(both: table.Runs, alone: table.Runs, loss: str) -> tuple[float, float, float]:
    """The mean over seeds of the difference in a loss, and Student's 95% interval of it."""
    found = losses_by_seed(both, loss) - losses_by_seed(alone, loss)
    half = scipy.stats.sem(found) * scipy.stats.t.ppf(0.975, len(found) - 1)
    return float(found.mean()), float(found.mean() - half), float(found.mean() + half)


def beside(runs: table.Runs, others: table.Runs, loss: str) -> str:
    """`difference`, as a table has it."""
    mean, low, high = difference(runs, others, loss)
    return f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"


def spread(losses: np.ndarray) -> str:
    """Mean and standard deviation over seeds."""
    return f"{losses.mean():.4f} ± {losses.std(ddof=1):.4f}"


def losses_by_seed(runs: table.Runs, loss: str) -> np.ndarray:
    """In the order of seeds, of the runs that are done."""
    done = runs["state"] == "done"
    return runs.loss(loss)[done][np.argsort(runs["seed"][done])]


def rate(directory: pathlib.Path, out: pathlib.Path, small: bool) -> None:
    """Losses against the learning rate at every width, under both parametrisations.

    At the base's width both are the same runs, which stand in the sweep of the first alone.
    """
    ending = "_small" * small
    found = {
        "maximal update": run(f"configs/scaling_rate.py:mup{ending}", directory / "rate_mup"),
        "standard": run(f"configs/scaling_rate.py:standard{ending}", directory / "rate_standard"),
    }
    for name, runs in found.items():
        keep(runs, out / f"rate_{name.replace(' ', '_')}.csv")
    first, second = found.values()
    base = first.where(first["size"] == smallest(first))
    found["standard"] = table.Runs(
        {k: np.concatenate([base[k], second[k]]) for k in second.columns}
    )
    print("| parametrisation | loss | width | best rate | lost by the best rate of the smallest |")
    print("|---|---|---|---|---|")
    for (name, runs), loss in itertools.product(found.items(), LOSSES):
        best = best_rates(runs, loss)
        for size, chosen in best.items():
            rates = best[smallest(runs)], chosen
            lost = np.subtract(*(loss_at(runs, loss, size, r) for r in rates))
            print(f"| {name} | {NAMES[loss]} | {width_of(size)} | {chosen:g} | {lost:.3f} |")
    with style():
        draw_rates(found, out / "rate.svg")


def smallest(runs: table.Runs) -> str:
    """Of the sizes."""
    return min(set(runs["size"]), key=width_of)


def width_of(size: str) -> int:
    """Of a size as the table has it: w64."""
    return int(size[1:])


def loss_at(runs: table.Runs, loss: str, size: str, rate: float) -> float:
    """Of one run; infinite if it diverged."""
    (here,) = np.flatnonzero((runs["size"] == size) & (runs["learning_rate"] == rate))
    return float(runs.loss(loss)[here]) if runs["state"][here] == "done" else float("inf")


def best_rates(runs: table.Runs, loss: str) -> dict[str, float]:
    """By size, the learning rate with the least loss among the runs that are done."""
    done = runs.where(runs["state"] == "done")
    found = {}
    for size in sorted(set(done["size"]), key=width_of):
        here = done.where(done["size"] == size)
        found[size] = float(here["learning_rate"][np.argmin(here.loss(loss))])
    return found


def draw_rates(found: dict[str, table.Runs], path: pathlib.Path) -> None:
    """A row for each parametrisation, a column for each loss; stars are the best rates."""
    figure, panels = plt.subplots(
        2, 3, figsize=(PAGE, 3.9), sharex=True, sharey="col", layout="constrained"
    )
    sizes = sorted({s for runs in found.values() for s in runs["size"]}, key=width_of)
    colors = dict(zip(sizes, colormaps[SIZES](np.linspace(0, 0.85, len(sizes)))))
    for (name, runs), row in zip(found.items(), panels):
        done = runs.where(runs["state"] == "done")
        for loss, axes in zip(LOSSES, row):
            for size, best in best_rates(runs, loss).items():
                color = colors[size]
                here = done.where(done["size"] == size)
                order = np.argsort(here["learning_rate"])
                rates, losses = here["learning_rate"][order], here.loss(loss)[order]
                axes.plot(rates, losses, ".-", color=color, label=f"width {width_of(size)}")
                axes.plot(best, losses.min(), "*", color=color, ms=10)
            axes.set_xscale("log", base=2)
            axes.set_title(f"{NAMES[loss]}, {name}")
    for axes in panels[1]:
        axes.set_xlabel("learning rate")
        axes.xaxis.set_major_locator(FixedLocator([1e-3, 4e-3, 1.6e-2, 6.4e-2]))
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    for axes in panels[:, 0]:
        axes.set_ylabel("held-out loss (nats)")
    panels[0, 0].legend()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


PARTS = {"ladder": ladder, "epochs": epochs, "together": together, "rate": rate}


def command(parts: Mapping[str, Part], description: str) -> None:
    """The command line of a study: runs its parts, all of them or those that are asked for."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--dir", type=pathlib.Path, required=True, help="for the runs")
    parser.add_argument("--part", choices=parts, action="append", help="all of them by default")
    parser.add_argument("--small", action="store_true", help="minutes, to see that all works")
    args = parser.parse_args()
    out = args.dir / "out" if args.small else DOCS
    out.mkdir(parents=True, exist_ok=True)
    for part in args.part or parts:
        parts[part](args.dir, out, args.small)


if __name__ == "__main__":
    command(PARTS, __doc__)

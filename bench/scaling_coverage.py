"""Coverage of the intervals of scaling laws, long: `python bench/scaling_coverage.py`.

Synthetic studies of a known law, of several numbers of runs and kinds of noise; how often each
constant's interval holds the truth. docs/scaling.md has the table. About 10 minutes on one core.
`--parity`: that of the parity FLOP ratio of two systems instead.
"""

import argparse

import numpy as np
from tqdm import tqdm

from unijax.scaling.coverage import coverage, parity_coverage
from unijax.scaling.points import Points

TRUTH = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}


def runs(budgets: int, sizes: int, noise: str, scale: float, seed: int) -> Points:
    """An IsoFLOP study around the optimum, with losses off by `scale` of themselves."""
    t = TRUTH
    g = (t["alpha"] * t["A"] / (t["beta"] * t["B"])) ** (1 / (t["alpha"] + t["beta"]))
    flops = np.repeat(np.geomspace(1e18, 1e21, budgets), sizes)
    best = g * (flops / 6) ** (t["beta"] / (t["alpha"] + t["beta"]))
    n = best * np.tile(np.geomspace(1 / 8, 8, sizes), budgets)
    d = flops / (6 * n)
    rng = np.random.default_rng(seed)
    off = rng.normal(size=len(n)) if noise == "normal" else rng.standard_t(3, size=len(n)) / 3**0.5
    loss = t["E"] + t["A"] / n ** t["alpha"] + t["B"] / d ** t["beta"]
    return Points(n, d, loss * np.exp(scale * off))


def two_systems(noise: float, seed: int) -> tuple[Points, Points]:
    """24 runs of each; the second needs three times the tokens for the same loss."""
    t, found = TRUTH, []
    rng = np.random.default_rng(seed)
    n, d = np.meshgrid(np.geomspace(1e7, 3e9, 6), np.geomspace(1e9, 1e11, 4))
    n, d = n.ravel(), d.ravel()
    for factor in (1.0, 3.0):
        loss = t["E"] + t["A"] / n ** t["alpha"] + t["B"] / d ** t["beta"]
        found.append(Points(n, factor * d, loss * np.exp(rng.normal(0, noise, len(n)))))
    return found[0], found[1]


def parity(studies: int, draws: int, level: float) -> None:
    """A table of noise, coverage and width of the interval."""
    print(f"{'scale':>6} {'parity':>7} {'high/low':>9}")
    for noise in (0.001, 0.005, 0.01):
        with tqdm(total=studies, leave=False) as bar:
            share, width = parity_coverage(
                lambda seed, x=noise: two_systems(x, seed), 1 / 3, studies, draws, level, bar.update
            )
        print(f"{noise:6g} {share:7.3f} {width:9.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--level", type=float, default=0.95)
    parser.add_argument("--parity", action="store_true")
    args = parser.parse_args()
    if args.parity:
        parity(args.studies, args.draws, args.level)
        return
    names = ("E", "A", "B", "alpha", "beta", "a", "N_100")
    print(f"{'runs':>5} {'noise':>8} {'scale':>6} " + " ".join(f"{n:>6}" for n in names))
    for budgets, sizes in ((4, 4), (5, 5), (6, 7), (9, 12)):
        for noise, scale in (("normal", 0.002), ("normal", 0.01), ("t3", 0.005)):
            with tqdm(total=args.studies, leave=False) as bar:
                found = coverage(
                    lambda seed, b=budgets, s=sizes, k=noise, x=scale: runs(b, s, k, x, seed),
                    TRUTH, args.studies, args.draws, args.level, progress=bar.update,
                )  # fmt: skip
            shares = " ".join(f"{found[n]:6.3f}" for n in names)
            print(f"{budgets * sizes:5} {noise:>8} {scale:6g} {shares}", flush=True)


if __name__ == "__main__":
    main()

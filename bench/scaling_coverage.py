"""Coverage of the intervals of scaling laws, long: `python bench/scaling_coverage.py`.

Synthetic studies of a known law, of several numbers of runs and kinds of noise; how often each
constant's interval holds the truth. docs/scaling.md has the table. About 10 minutes on one core.
"""

import argparse

import numpy as np
from tqdm import tqdm

from unijax.scaling.coverage import coverage
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--level", type=float, default=0.95)
    args = parser.parse_args()
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

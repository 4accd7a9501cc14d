"""Runs whose law is known."""

import numpy as np

from unijax.scaling.points import Points

TRUTH = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}


def loss(n: np.ndarray, d: np.ndarray, c: dict[str, float] = TRUTH) -> np.ndarray:
    """E + A N^-alpha + B D^-beta, written out."""
    return c["E"] + c["A"] / n ** c["alpha"] + c["B"] / d ** c["beta"]


def isoflop(
    budgets: np.ndarray,
    sizes: int = 7,
    width: float = 8.0,
    noise: float = 0.0,
    seed: int = 0,
    c: dict[str, float] = TRUTH,
) -> Points:
    """`sizes` runs at each budget, within a factor `width` of the optimum on both sides."""
    g = (c["alpha"] * c["A"] / (c["beta"] * c["B"])) ** (1 / (c["alpha"] + c["beta"]))
    flops = np.repeat(budgets, sizes)
    best = g * (flops / 6) ** (c["beta"] / (c["alpha"] + c["beta"]))
    n = best * np.tile(np.geomspace(1 / width, width, sizes), len(budgets))
    d = flops / (6 * n)
    scatter = np.random.default_rng(seed).normal(0.0, noise, len(n))
    return Points(n, d, loss(n, d, c) * np.exp(scatter))


BUDGETS = np.geomspace(1e18, 1e21, 6)

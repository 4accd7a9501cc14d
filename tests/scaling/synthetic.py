"""Runs whose law is known."""

import numpy as np

from unijax.scaling.points import Points
from unijax.scaling.study import Chosen
from unijax.scaling.table import Runs

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


def as_runs(points: Points) -> Runs:
    """Rows r0, r1, ... of a table."""
    columns = {
        "run_id": np.array([f"r{i}" for i in range(len(points))], dtype=object),
        "parameters": points.parameters,
        "tokens": points.tokens,
        "loss_text_nats_per_token": points.loss,
        "unique_tokens": points.unique_tokens,
    }
    return Runs({name: values for name, values in columns.items() if values is not None})


def as_chosen(points: Points) -> Chosen:
    """All of them, to be fitted."""
    return Chosen(points, as_runs(points), [], [], "parameters")

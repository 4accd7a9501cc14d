"""Whether intervals hold what they say: many studies of a known law, each with its bootstrap."""

from collections.abc import Callable

import numpy as np

from unijax.scaling.bootstrap import bootstrap, interval
from unijax.scaling.fit import fit
from unijax.scaling.frontier import of_law
from unijax.scaling.laws import Chinchilla
from unijax.scaling.objective import Objective
from unijax.scaling.parity import System, parity_of_systems
from unijax.scaling.points import Points


def coverage(
    study: Callable[[int], Points],
    truth: dict[str, float],
    studies: int,
    draws: int,
    level: float,
    objective: Objective | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, float]:
    """The share of studies whose interval holds the truth.

    Args:
      study: the runs of a seed, with fresh noise; their compute is 6 N D.
      truth: E, A, B, alpha and beta.

    Returns:
      By constant; "a", of N ~ C^a; and "N_100", the optimal N at 100 times the largest compute.
    """
    hits: dict[str, int] = {}
    a = truth["beta"] / (truth["alpha"] + truth["beta"])
    log_g = np.log(truth["alpha"] * truth["A"] / (truth["beta"] * truth["B"]))
    log_g /= truth["alpha"] + truth["beta"]
    for seed in range(studies):
        points = study(seed)
        fitted = fit(Chinchilla.of(points), points, objective or Objective())
        drawn = bootstrap(fitted, points, draws, seed)
        frontier = of_law(fitted.law, fitted.theta, drawn, points)
        far = np.array([100 * points.compute.max()])
        ends = {
            name: (interval(values, level), truth[name])
            for name, values in fitted.law.constants(drawn).items()
        }
        ends["a"] = (frontier.exponent_intervals(level)[0], a)
        optimum = np.exp(log_g + a * np.log(far[0] / 6))
        ends["N_100"] = (frontier.parameter_interval(far, level)[:, 0], optimum)
        for name, ((low, high), true) in ends.items():
            hits[name] = hits.get(name, 0) + int(low <= true <= high)
        progress(1)
    return {name: count / studies for name, count in hits.items()}


def parity_coverage(
    pair: Callable[[int], tuple[Points, Points]],
    truth: float,
    studies: int,
    draws: int,
    level: float,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[float, float]:
    """The share of studies whose interval of the parity FLOP ratio holds the truth.

    Args:
      pair: the runs of the system and of the reference, of a seed, with fresh noise.

    Returns:
      Beside the share the median over studies of the interval's upper end over its lower.
    """
    hits, widths = 0, []
    for seed in range(studies):
        systems = []
        for points in pair(seed):
            fitted = fit(Chinchilla.of(points), points, Objective())
            systems.append(System(fitted, bootstrap(fitted, points, draws, 0), points))
        found = parity_of_systems(*systems, level, 0)
        hits += found.low <= truth <= found.high
        widths.append(found.high / found.low)
        progress(1)
    return hits / studies, float(np.median(widths))

"""All alternatives to the law at one table, best first."""

import numpy as np
from jaxtyping import Float

from unijax.scaling import departures, outliers
from unijax.scaling.alternatives import LEAST, Alternative, cost, freedom, off, settled
from unijax.scaling.groups import parts
from unijax.scaling.laws import Chinchilla
from unijax.scaling.points import Points
from unijax.scaling.table import Runs


def alternatives(
    law: Chinchilla, theta: Float[np.ndarray, "q"], points: Points, runs: Runs
) -> tuple[Alternative, list[Alternative]]:
    """The law alone, and what may explain the runs better, best first."""
    residuals = off(law, theta[None], points)
    left = freedom(law, points)
    scale = np.median(np.abs(residuals)) / 0.6745 * np.sqrt(len(points) / left)
    thetas, residuals, scales = settled(law, points, theta[None], max(float(scale), LEAST))
    price = float(cost(residuals, scales, left, 1)[0])
    alone = Alternative("law", None, thetas[0], residuals[0], float(scales[0]), price)
    some = parts(points, runs)
    found = departures.shifts(law, alone, some, points)
    found += departures.exchanges(law, alone, points)
    found += departures.pools(law, alone, points)
    agreed = outliers.majorities(law, alone, points)
    found += outliers.wrong_rows(law, agreed, points, [str(i) for i in runs["run_id"]])
    found.sort(key=lambda a: a.cost)
    found += departures.groups_of_any_shape(law, [alone, *agreed, *found[:1]], points)
    found += outliers.noisy_parts(law, alone, [p for p in some if not p.ramp], points)
    found.sort(key=lambda a: a.cost)
    found += departures.perplexities(law, [a for a in found if a.part][:8], points)
    return alone, sorted(found, key=lambda a: a.cost)

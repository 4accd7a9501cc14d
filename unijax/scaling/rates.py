"""Learning rates whose best lies at the end of those that were tried."""

import numpy as np
from jaxtyping import Float

from unijax.scaling.doubt import Doubt
from unijax.scaling.table import Runs
from unijax.scaling.validate import by_setting

RATES = 3  # of one setting, for one of them to lie between two
SHARE = 1 / 3  # of the settings at the same end
FEWEST = 3  # settings


def at_the_end(runs: Runs, loss: Float[np.ndarray, "n"], parameters: str) -> list[Doubt]:
    """Whether the rates that were tried enclose the best one.

    Args:
      runs: of all rates, before the best are kept; `loss` of each.
    """
    if "learning_rate" not in runs:
        return []
    rates, ends, sizes = runs["learning_rate"], [], []
    for here in by_setting([runs[parameters], runs["tokens"]]):
        tried = np.unique(rates[here])
        if len(tried) < RATES:
            continue
        mean = [loss[here][rates[here] == r].mean() for r in tried]
        best = int(np.argmin(mean))
        ends.append({0: "lowest", len(tried) - 1: "highest"}.get(best, ""))
        sizes.append(float(runs[parameters][here[0]]))
    for end in ("lowest", "highest"):
        there = [n for n, e in zip(sizes, ends) if e == end]
        if len(there) >= FEWEST and len(there) > SHARE * len(ends):
            return [
                Doubt(
                    f"the {end} learning rate that was tried is the best one at {len(there)} of "
                    f"{len(ends)} settings, of {min(there):.3g} to {max(there):.3g} parameters: "
                    "look for learning rates that are not tuned for these sizes; try further ones",
                    ("rates",),
                )
            ]
    return []

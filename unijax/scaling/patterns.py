"""Residuals that are too large, or that follow sizes, lengths or budgets: then the law is wrong."""

import numpy as np
from jaxtyping import Float
from scipy import stats

from unijax.scaling.doubt import Doubt, names
from unijax.scaling.groups import places
from unijax.scaling.points import Points

LARGE = 0.03  # scatter around the law that no seeds explain
STRAY = (10.0, 0.02)  # times the scatter, and by itself: log of a loss over the law's
FAR = (5.0, 0.10)  # as well: less often the scatter, and more by itself
BANDS = 8  # of sizes, lengths or budgets, in which residuals are averaged
FEWEST = 3  # runs in such a band
PATTERN = 0.01  # a band's mean that is worth telling
CHANCE = 1e-4  # that bands of a right law differ so


def scatter(residuals: Float[np.ndarray, "n"], constants: int) -> float:
    """Deviation of single runs: of the middle ones, as the rest may be wrong."""
    count = len(residuals)
    freedom = max(count - constants, 1)
    return float(np.median(np.abs(residuals)) / 0.6745 * np.sqrt(count / freedom))


def large(residuals: Float[np.ndarray, "n"], scale: float) -> list[Doubt]:
    """All residuals together."""
    if scale < LARGE:
        return []
    return [
        Doubt(
            f"runs scatter by {scale:.1%} around the law, and go up to "
            f"{np.abs(np.expm1(residuals)).max():.0%} from it: seeds make a tenth of a per cent to "
            "one; the law does not hold, or the runs are not of one kind"
        )
    ]


def stray(residuals: Float[np.ndarray, "n"], ids: list[str], scale: float) -> list[Doubt]:
    """Single runs that are far off."""
    size = np.abs(residuals)
    off = np.zeros(len(size), bool)
    for times, itself in (STRAY, FAR):
        off |= size > max(times * scale, itself)
    if not off.any():
        return []
    most = float(np.abs(np.expm1(residuals[off])).max())
    return [
        Doubt(
            f"up to {most:.0%} off the law, where runs scatter by {scale:.1%}: {names(ids, off)}; "
            "look for runs that diverged, mislabelled rows, or parameters, tokens or a loss in "
            "other units",
            runs=tuple(i for i, o in zip(ids, off) if o),
        )
    ]


def patterned(residuals: Float[np.ndarray, "n"], points: Points, constants: int) -> list[Doubt]:
    """The axis along which the law is wrong the most, if it is."""
    worst, found = 0.0, None
    axes = (
        ("budget", points.compute, "FLOP"),
        ("size", points.parameters, "parameters"),
        ("length", points.tokens, "tokens"),
    )
    for name, values, unit in axes:
        place = places(values, BANDS)
        runs = np.bincount(place)
        means = np.bincount(place, residuals) / runs
        if len(runs) < 3 or chance(residuals, place, constants) > CHANCE:
            continue
        enough = runs >= FEWEST
        spread = float(np.abs(means[enough]).max(initial=0.0))
        if spread > max(PATTERN, worst):
            worst, found = spread, (name, values, unit, place, means, enough)
    if found is None:
        return []
    name, values, unit, place, means, enough = found
    steps = [
        f"{np.expm1(means[i]):+.1%} at {np.exp(np.log(values[place == i]).mean()):.3g}"
        for i in np.flatnonzero(enough)
    ]
    return [
        Doubt(
            f"residuals follow the {name}: on average {', '.join(steps)} {unit}; the law does not "
            "hold over all of these runs, and what it says beyond them is as far off at least"
        )
    ]


def chance(residuals: Float[np.ndarray, "n"], place: np.ndarray, constants: int) -> float:
    """That the means of bands of a right law differ as much.

    An F test of all of them, with outliers no further off than three deviations.
    """
    scale = max(scatter(residuals, constants), 1e-12)
    kept = np.clip(residuals, -3 * scale, 3 * scale)
    runs = np.bincount(place)
    means = np.bincount(place, kept) / runs
    within = np.sum((kept - means[place]) ** 2)
    between = np.sum(runs * means**2)
    bands = len(runs)
    left = len(kept) - bands
    if left < 2:
        return 1.0
    # The fit has taken some of the bands' freedom already: so this is on the safe side.
    return float(stats.f.sf((between / bands) / max(within / left, 1e-300), bands, left))

"""Alternatives in which runs are wrong each for itself, or scatter more than the rest.

Both are held against the law that the most of the runs agree on, not the one that all of them pull.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float
from scipy import special, stats

from unijax.scaling.alternatives import LEAST, STEPS, Alternative, off, surprise
from unijax.scaling.groups import Part
from unijax.scaling.laws import Chinchilla, Theta
from unijax.scaling.objective import Objective
from unijax.scaling.points import Points
from unijax.scaling.solver import minimise

SQUARES = Objective(np.inf)
SAMPLES = 40  # of few runs, from which a law that most agree on is sought
MORE = 4  # runs in such a sample than constants
MAJORITIES = (0.55, 0.7, 0.85)  # shares of the runs that may agree
WRONG = 5.0  # deviations from the law of the others
MOST = 0.35  # of the runs may be wrong
SPREAD = 1.0  # of the log losses of wrong runs
LOUDER = 2.5  # times the scatter of the rest
LEANS = 0.01  # a part that scatters around the law leans to one side so seldom
BRIEF = 15  # steps, where parts are only told apart
CLOSER = 24  # of the parts tried: the best, which are weighted by their scatter


def majorities(law: Chinchilla, alone: Alternative, points: Points) -> list[Alternative]:
    """Fits to those runs that agree the most, for each share of them.

    Least trimmed squares, by concentration from many small samples (Rousseeuw and Van Driessen
    1999).
    """
    count, constants = len(points), sum(law.free)
    rng = np.random.default_rng(0)
    samples = np.ones((SAMPLES, count))
    for row in samples[1:]:
        row[rng.permutation(count)[constants + MORE :]] = 0
    found = []
    for share in MAJORITIES:
        most = max(int(np.ceil(share * count)), constants + MORE)
        if most >= count:
            continue
        weights, thetas = samples, np.repeat(alone.base[None], SAMPLES, axis=0)
        for _ in range(8):
            thetas = minimise(law, points, SQUARES, thetas, weights, iterations=15).theta
            residuals = off(law, thetas, points)
            nearest = np.argsort(np.abs(residuals), axis=1)[:, :most]
            weights = np.zeros_like(samples)
            np.put_along_axis(weights, nearest, 1.0, axis=1)
        best = np.argmin((weights * residuals**2).sum(axis=1))
        scale = max(float(np.median(np.abs(residuals[best]))) / 0.6745, LEAST)
        found.append(
            dataclasses.replace(
                alone, base=thetas[best], residuals=residuals[best], scale=scale, cost=np.inf
            )
        )
    return found


def wrong_rows(
    law: Chinchilla, near: list[Alternative], points: Points, ids: list[str]
) -> list[Alternative]:
    """The runs that lie far off the law of the others."""
    count, constants = len(points), sum(law.free)
    found = []
    for start in near:
        theta, residuals, scale = start.base, start.residuals, start.scale
        for _ in range(6):
            inside = np.abs(residuals) < (WRONG - 1) * scale
            if inside.sum() < constants + MORE:
                break
            weights = inside[None].astype(float)
            theta = minimise(law, points, SQUARES, theta[None], weights, iterations=STEPS).theta[0]
            residuals = off(law, theta[None], points)[0]
            left = inside.sum() - constants
            scale = max(float(np.sqrt((residuals[inside] ** 2).sum() / left)), LEAST)
        wrong = np.abs(residuals) > WRONG * scale
        many = int(wrong.sum())
        right = count - many
        if not 0 < many <= MOST * count or right < constants + MORE:
            continue
        price = (right - constants) / right * surprise(residuals[~wrong], scale).sum()
        log = special.gammaln(np.array([count, many, right]) + 1.0)
        price += 2 * many * np.log(SPREAD) + 2 * (log[0] - log[1] - log[2])
        named = ", ".join(i for i, bad in zip(ids, wrong) if bad)
        part = Part(wrong.astype(float), named, "any")
        found.append(Alternative("rows", part, theta, residuals, scale, float(price)))
    return found


def noisy_parts(
    law: Chinchilla, alone: Alternative, some: list[Part], points: Points
) -> list[Alternative]:
    """A part that scatters more than the rest, and the law of the rest."""
    count, constants = len(points), sum(law.free)
    one = np.array([p.profile > 0 for p in some])
    loud, of = np.concatenate([one, ~one]), np.tile(np.arange(len(some)), 2)
    rest = (~loud).sum(axis=1)
    enough = (loud.sum(axis=1) >= MORE) & (rest >= max(constants + MORE, count / 2))
    loud, of, rest = loud[enough], of[enough], rest[enough]
    if not len(loud):
        return []
    # Each part is held against the law of its own rest: what all runs agree on is spoilt by it.
    begin = np.repeat(alone.base[None], len(loud), axis=0)
    without = minimise(law, points, SQUARES, begin, (~loud).astype(float), iterations=BRIEF).theta
    residuals = off(law, without, points)
    squares = [(x * residuals**2).sum(axis=1) for x in (loud, ~loud)]
    left = np.stack([loud.sum(axis=1), rest - constants])
    scales = np.maximum(np.sqrt(squares / left), LEAST)
    best = np.argsort((left * np.log(scales)).sum(axis=0))[:CLOSER]
    parts = [some[i] for i in of[best]]
    return _weighted(law, without[best], residuals[best], loud[best], parts, len(rest), points)


def _weighted(
    law: Chinchilla,
    theta: Theta,
    residuals: Float[np.ndarray, "b n"],
    loud: Bool[np.ndarray, "b n"],
    some: list[Part],
    tried: int,
    points: Points,
) -> list[Alternative]:
    """Each part and the rest weighted by their scatter, which is taken anew several times."""
    constants, sizes = sum(law.free), np.stack([loud.sum(axis=1), (~loud).sum(axis=1)])
    left = np.stack([sizes[0], sizes[1] - constants]).astype(float)
    for _ in range(7):
        squares = [(x * residuals**2).sum(axis=1) for x in (loud, ~loud)]
        scales = np.maximum(np.sqrt(squares / np.maximum(left, 1)), LEAST)
        weights = np.where(loud, ((scales[1] / scales[0]) ** 2)[:, None], 1.0)
        # More than its weight in runs is as good as all: the search stays well-scaled.
        weights = np.minimum(weights, 1e6)
        theta = minimise(law, points, SQUARES, theta, weights, iterations=STEPS).theta
        residuals = off(law, theta, points)
        # What the fit takes of either part's freedom is in proportion to its weight.
        share = (weights * loud).sum(axis=1) / weights.sum(axis=1)
        left = sizes - constants * np.stack([share, 1 - share])
    each = surprise(residuals, np.where(loud, scales[0][:, None], scales[1][:, None]))
    price = left[0] / sizes[0] * (each * loud).sum(axis=1)
    price += left[1] / sizes[1] * (each * ~loud).sum(axis=1) + 2 * np.log(tried)
    found = []
    for i in np.flatnonzero(scales[0] > LOUDER * scales[1]):
        same = (some[i].profile > 0)[loud[i]].all()
        part = some[i] if same else some[i].others()
        one = Alternative(
            "noise", part, theta[i], residuals[i], float(scales[1, i]), float(price[i]),
            scatter=float(scales[0, i]),
        )  # fmt: skip
        there = residuals[i][loud[i]]
        spread = float(there.std(ddof=1))
        mean, error = float(there.mean()), spread / np.sqrt(len(there))
        if abs(mean) > error * stats.t.isf(LEANS / 2, len(there) - 1):
            # They scatter, and most of them to one side: a loose factor.
            one = dataclasses.replace(one, kind="loose", step=mean, error=error, scatter=spread)
        found.append(one)
    return found

"""Losses of a part of the runs in bits: what no comparison of two runs shows, but a law does.

Runs of other units among the rest contradict their neighbours and are refused (`validate`). Where
all small runs, or all long ones, come from another script, no two runs need contradict each other,
and a law bends to fit them. So each such part is tried: if E + A N^-alpha + B D^-beta (least
squares, exponents on a grid) comes several times nearer to the losses when this part is taken from
bits to nats, that is said. Losses that are right move away from every law by it.
"""

import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float

from unijax.scaling.points import Points

NEARER = 2.5  # times, of the root mean square
TOGETHER = 1.5  # sizes, or lengths, within this factor come from one place
EXPONENTS = np.geomspace(0.05, 1.5, 16)


def warn_of_bits(points: Points, ids: list[str]) -> list[str]:
    """The part of the runs, small or large, short or long, whose losses look given in bits."""
    parts = list(_parts(points))
    if not parts:
        return []
    inside = np.array([part for part, _ in parts])
    losses = np.where(inside, points.loss * np.log(2), points.loss)
    away = _away(points, np.vstack([points.loss, losses]))
    best = int(np.argmin(away[1:]))
    if away[0] < NEARER * away[1 + best]:
        return []
    part, name = parts[best]
    listed = [i for i, here in zip(ids, part) if here]
    return [
        f"the {len(listed)} runs of {name} ({', '.join(listed[:3])} ...) look given in bits and "
        "the others in nats: with their losses times ln 2 a law comes "
        f"{away[0] / away[1 + best]:.1f} times nearer"
    ]


def _away(points: Points, losses: Float[np.ndarray, "p n"]) -> Float[np.ndarray, "p"]:
    """How far the nearest law is from each row of losses: root mean square over mean loss."""
    n, d = (x / np.exp(np.log(x).mean()) for x in (points.parameters, points.tokens))
    designs = [[n**0, n**-a, d**-b] for a, b in itertools.product(EXPONENTS, EXPONENTS)]
    basis = np.linalg.qr(np.swapaxes(designs, 1, 2))[0]  # [grid, runs, 3]
    fitted = np.einsum("gnk,gmk,pm->pgn", basis, basis, losses, optimize=True)
    squares = np.mean((fitted - losses[:, None]) ** 2, axis=2).min(axis=1)
    return np.sqrt(squares) / losses.mean(axis=1)


def _parts(points: Points) -> Iterator[tuple[Bool[np.ndarray, "n"], str]]:
    """Both sides of each gap between sizes and between lengths, and what they are called."""
    for column, name in ((points.parameters, "parameters"), (points.tokens, "tokens")):
        for low, high in _gaps(column):
            yield column <= low, f"at most {low:.3g} {name}"
            yield column >= high, f"at least {high:.3g} {name}"


def _gaps(values: Float[np.ndarray, "n"]) -> list[tuple[float, float]]:
    """Neighbouring values that are further apart than one place's are."""
    ordered = np.unique(values)
    wide = np.flatnonzero(ordered[1:] > TOGETHER * ordered[:-1])
    return [(float(ordered[i]), float(ordered[i + 1])) for i in wide]

"""Alternatives in which a part of the runs departs from the law: all by one factor, or by places
that were exchanged, or because what they read was seen again."""

import dataclasses

import numpy as np
from jaxtyping import Float
from scipy import special

from unijax.scaling.alternatives import (
    STEPS,
    Alternative,
    clipped,
    cost,
    freedom,
    off,
    settled,
)
from unijax.scaling.groups import FEWEST, PLACES, Part, places
from unijax.scaling.laws import Chinchilla, Predictor, Theta
from unijax.scaling.points import Points
from unijax.scaling.pooled import Pooled
from unijax.scaling.shifted import LOSS, PARAMETERS, TOKENIZER, TOKENS, Shifted
from unijax.scaling.solver import minimise

CLOSER = 12  # of the parts tried: the best, which get their own scale
CONVERSIONS = (float(-np.log(np.log(2))), float(np.log(np.log(10))))  # nats to bits; to base ten
COUNTED = tuple(float(np.log(x)) for x in (2.0, 4.0, 1024.0))  # otherwise: bytes, thousands
APART = 5.0  # deviations: runs of any shape must lie so far off to be a part
SELDOM = 6.0  # that much more must such an explanation gain
LIKE = 1.5  # times the losses of the others: so far off they are no perplexities
REGROUPED = 8  # times that runs of any shape are assigned anew


def shifts(law: Chinchilla, alone: Alternative, some: list[Part], points: Points):
    """A part whose losses, parameters, tokens or (by its tokenizer) losses and tokens are a factor
    away."""
    found = []
    for kind, powers, taken in (
        ("loss", LOSS, some),
        ("parameters", PARAMETERS, [p for p in some if p.by != "tokens" and not p.ramp]),
        ("tokens", TOKENS, [p for p in some if p.by != "parameters" and not p.ramp]),
        ("tokenizer", TOKENIZER, [p for p in some if not p.ramp]),
    ):
        if not taken:
            continue
        profiles = np.stack([p.profile for p in taken])
        every = Shifted(law, profiles, np.tile(powers, (len(taken), 1)))
        starts = every.start(_each(alone, len(taken)), np.zeros(len(taken)))
        first = minimise(every, points, clipped(alone.scale), starts, iterations=STEPS)
        best = np.argsort(first.value)[:CLOSER]
        chosen = [taken[i] for i in best]
        found += _fitted(kind, every, first.theta[best], chosen, alone.scale, points, len(taken))
    return [_weighed(a) for a in found]


def _weighed(one: Alternative) -> Alternative:
    """Whole sizes, lengths and files are counted wrongly; a corner or some budgets seldom are."""
    if one.kind in ("parameters", "tokens") and one.part.by in ("corner", "compute", "any"):
        return dataclasses.replace(one, cost=one.cost + SELDOM)
    return one


def exchanges(law: Chinchilla, alone: Alternative, points: Points) -> list[Alternative]:
    """Two sizes, or two lengths, that stand in each other's place."""
    profiles, chosen, powers = [], [], []
    for name, values, power in (
        ("parameters", points.parameters, PARAMETERS), ("tokens", points.tokens, TOKENS),
    ):  # fmt: skip
        place, log = places(values, PLACES), np.log(values)
        if len(np.unique(values)) > len(values) / 2:  # no two runs are of one size or length
            continue
        middle = [log[place == i].mean() for i in range(place.max() + 1)]
        for i, high in enumerate(middle):
            for j, low in enumerate(middle[:i]):
                profile = (high - low) * ((place == j) * 1.0 - (place == i))
                words = f"{np.exp(low):.3g} and {np.exp(high):.3g} {name}"
                profiles.append(profile)
                powers.append(power)
                chosen.append(Part((profile != 0) * 1.0, words, name))
    if not profiles:
        return []
    every = Shifted(law, np.stack(profiles), np.array(powers))
    starts = every.start(_each(alone, len(chosen)), np.ones(len(chosen)))
    held = (starts.shape[1] - 2,)
    first = minimise(every, points, clipped(alone.scale), starts, held=held, iterations=STEPS)
    best = np.argsort(first.value)[:CLOSER]
    some = [chosen[i] for i in best]
    thetas = first.theta[best]
    return _fitted("exchanged", every, thetas, some, alone.scale, points, len(chosen), held)


def pools(law: Chinchilla, alone: Alternative, points: Points) -> list[Alternative]:
    """Tokens beyond a pool of data, seen again."""
    pooled = Pooled.of(law, points)
    starts = pooled.starts(alone.base)
    first = minimise(pooled, points, clipped(alone.scale), starts, iterations=STEPS)
    best = np.argsort(first.value)[:3]
    return _fitted("pool", pooled, first.theta[best], [None] * len(best), alone.scale, points, 1)


def groups_of_any_shape(
    law: Chinchilla, near: list[Alternative], points: Points
) -> list[Alternative]:
    """Runs, whichever they are, that are one factor away from the law of the others.

    Args:
      near: fits from which the runs are told apart, first by a factor that is guessed and then,
        again and again, by the one that they have.
    """
    found = []
    for kind, powers, guesses in (
        ("loss", LOSS, CONVERSIONS),
        ("parameters", PARAMETERS, COUNTED),
        ("tokens", TOKENS, COUNTED),
    ):
        bases, steps = [], []
        for start in near:
            some = [sign * x for sign in (-1, 1) for x in guesses]
            if kind == "loss":
                middle = start.residuals - np.median(start.residuals)
                for far in (middle > APART * start.scale, middle < -APART * start.scale):
                    if far.sum() >= FEWEST:
                        some.append(float(np.median(middle[far])))
            bases += [start.base] * len(some)
            steps += some
        scale = min(a.scale for a in near)
        found += _regrouped(kind, law, powers, np.array(bases), np.array(steps), scale, points)
    return found


def _regrouped(
    kind: str, law: Chinchilla, powers, base: Theta, step: Float[np.ndarray, "b"], scale: float,
    points: Points,
) -> list[Alternative]:  # fmt: skip
    count = len(points)
    for _ in range(REGROUPED):
        residuals = off(law, base, points)
        every = Shifted(law, np.ones((len(base), count)), np.tile(powers, (len(base), 1)))
        away = off(every, every.start(base, step), points)
        inside = np.abs(away) < np.abs(residuals)
        kept = (inside.sum(axis=1) >= FEWEST) & (inside.sum(axis=1) <= count - FEWEST)
        if not kept.any():
            return []
        inside, base, step = inside[kept], base[kept], step[kept]
        # One of each: most starts come together.
        _, one = np.unique(inside, axis=0, return_index=True)
        inside, base, step = inside[one], base[one], step[one]
        shifted = Shifted(law, inside.astype(float), np.tile(powers, (len(inside), 1)))
        theta, _, scales = settled(shifted, points, shifted.start(base, step), scale)
        base, step, scale = theta[:, :-2], theta[:, -2], float(scales.min())
    some = [Part(x.astype(float), "", "any") for x in inside]
    found = []
    for one in _fitted(kind, shifted, theta, some, scale, points, 1):
        here = one.part.profile > 0
        moved = np.abs(off(law, one.base[None], points)[0] - one.residuals)[here]
        if np.median(moved) > APART * one.scale:
            price = one.cost + 2 * _choices(count, int(here.sum()))
            found.append(_weighed(dataclasses.replace(one, cost=price)))
    return sorted(found, key=lambda a: a.cost)[:CLOSER]


def perplexities(law: Chinchilla, near: list[Alternative], points: Points) -> list[Alternative]:
    """A part whose losses are perplexities, exp(loss); the parts are of other explanations."""
    found, seen = [], set()
    for start, part in ((a, p) for a in near for p in (a.part, a.part.others())):
        here = part.profile > 0
        if part.ramp or here.tobytes() in seen or (points.loss[here] <= 1).any():
            continue
        seen.add(here.tobytes())
        logs, others = np.log(points.loss[here]), points.loss[~here]
        if not others.min() / LIKE < np.median(logs) < LIKE * others.max():
            continue
        loss = np.where(here, np.log(points.loss), points.loss)
        read = dataclasses.replace(points, loss=loss)
        (one,) = _fitted("perplexity", law, start.base[None], [part], start.scale, read, 1)
        # The density is of log losses as they stand: each is a function of what was fitted.
        price = one.cost + 2 * np.log(np.log(points.loss[here])).sum()
        if part.by == "any":
            price += 2 * _choices(len(points), int(here.sum()))
        found.append(dataclasses.replace(one, cost=float(price)))
    return found


def _each(alone: Alternative, many: int) -> Theta:
    return np.repeat(alone.base[None], many, axis=0)


def _choices(count: int, some: int) -> float:
    """Log of the number of such groups."""
    parts = special.gammaln(np.array([count, some, count - some]) + 1.0)
    return float(parts[0] - parts[1] - parts[2])


def _fitted(
    kind: str, law: Predictor, thetas: Theta, some: list, scale: float, points: Points, tried: int,
    held: tuple[int, ...] = (),
) -> list[Alternative]:  # fmt: skip
    thetas, residuals, scales = settled(law, points, thetas, scale, held)
    left = freedom(law, points) + len(held)
    costs = cost(residuals, scales, left, tried)
    shifted = isinstance(law, Shifted)
    constants = len(law.names) if isinstance(law, Chinchilla) else len(law.base.names)
    found = []
    for i, (theta, part) in enumerate(zip(thetas, some)):
        step, error = (
            (float(theta[-2]), _error(law, theta, points, scales[i])) if shifted else (0.0, 0.0)
        )
        base = theta[:constants]
        found.append(
            Alternative(
                kind, part, base, residuals[i], float(scales[i]), float(costs[i]), step, error
            )
        )
    return found


def _error(law: Shifted, theta: Float[np.ndarray, "p"], points: Points, scale: float) -> float:
    """Standard error of the log factor."""
    loss, jacobian = law.predict(theta[None], points)
    relative = (jacobian[0] / loss[0][:, None])[:, np.array(law.free)]
    covariance = np.linalg.pinv(relative.T @ relative)
    return float(scale * np.sqrt(max(covariance[-1, -1], 0.0)))

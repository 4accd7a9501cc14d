"""Everything that makes a law of these runs doubtful, said with what may be behind it."""

import numpy as np
from jaxtyping import Float

from unijax.scaling import contradictions, patterns
from unijax.scaling.alternatives import Alternative
from unijax.scaling.causes import CAUSES, named, said
from unijax.scaling.doubt import Doubt, names
from unijax.scaling.fit import Fit
from unijax.scaling.frontier import losses, of_law
from unijax.scaling.points import Points
from unijax.scaling.suspicion import alternatives
from unijax.scaling.table import Runs

# By how much an alternative must cost less than the law alone. It may cost a little more: parts of
# a table overlap, and the price of choosing one takes each for another chance.
CLEAR = -3.0
AS_GOOD = 6.0  # alternatives that cost so little more than the best are told beside it
NEARLY = 0.8  # of what the best one gains, where that one has no cause
MOVES = 0.005  # of the loss predicted at ten times the compute: less is not worth telling
DEPARTS = 0.05  # of the log of a factor on losses, which is told whatever it moves
COUNTS = 0.35  # the same of a factor on parameters or tokens
LOUD = 0.02  # scatter of a part, likewise
LARGER = np.array([1.0, 10.0, 100.0])  # times the largest compute
EXPLAINED = 1.2  # times: the scatter around the law over what an explanation by a curve leaves
STEEPEST = 0.7  # of the log of a factor that grows along an axis: beyond it the law is another
SETS_APART = 4.0  # deviations by which a part departs, for it to be one
AT_MOST = 1500  # runs among which alternatives are sought


def doubts(
    fitted: Fit,
    points: Points,
    runs: Runs,
    budgets: Float[np.ndarray, "c"],
) -> list[Doubt]:
    """What the runs say against the fitted law, and against each other.

    Args:
      fitted: of `points`, a law E + A N^-alpha + B D^-beta.
      runs: the rows of the table, in the order of `points`, with all of their columns.
      budgets: for which an optimum is reported.

    Returns:
      Those that name a cause first.
    """
    ids = [str(i) for i in runs["run_id"]]
    residuals = np.log(points.loss) - np.log(fitted.predict(points))
    constants = sum(fitted.law.free)
    scale = patterns.scatter(residuals, constants)
    found = contradictions.floor_above_losses(fitted.constants()["E"], points, ids)
    flops = np.unique(np.append(budgets, points.compute.max() * LARGER))
    best = _optimum(fitted, fitted.theta, points, flops)
    found += contradictions.optima_worse_than_runs(flops, best, points, ids, scale)
    found += contradictions.equal_losses(points, ids, fitted.predict(points), scale)
    found += contradictions.worse_than_smaller(points, ids, scale)
    found += explained(fitted, points, runs)
    found += patterns.patterned(residuals, points, constants)
    found += patterns.large(residuals, scale)
    named = {run for doubt in found if doubt.causes for run in doubt.runs}
    found += [d for d in patterns.stray(residuals, ids, scale) if not set(d.runs) <= named]
    return sorted(found, key=lambda doubt: not doubt.causes)


def explained(fitted: Fit, points: Points, runs: Runs) -> list[Doubt]:
    """The alternatives that explain the runs better than the law alone does, and matter."""
    chosen = np.arange(len(points))
    if len(points) > AT_MOST:
        chosen = np.sort(np.random.default_rng(0).permutation(chosen)[:AT_MOST])
    some, rows = points.take(chosen), runs.where(np.isin(np.arange(len(points)), chosen))
    alone, found = alternatives(fitted.law, fitted.theta, some, rows)
    gain = lambda a: alone.cost - CLEAR - a.cost  # noqa: E731
    found = [a for a in found if gain(a) > 0 and _matters(a, fitted, some)]
    # What best explains the runs may be a curve without a cause: those with one come near it.
    likely = [a for a in found if gain(a) >= NEARLY * gain(found[0])]
    likely = [a for a in likely if named(a) and _convinces(a, alone, fitted, some)]
    likely = [a for a in likely if a.cost <= likely[0].cost + AS_GOOD]
    ids, told, causes = [str(i) for i in rows["run_id"]], [], set()
    for one in likely:
        if set(named(one)) - causes:
            told.append(_told(one, ids, bool(told), alone.scale / one.scale))
            causes |= set(named(one))
    if told or not found:
        return told
    return [_curved(found[0], ids)]


def _told(one: Alternative, ids: list[str], second: bool, better: float) -> Doubt:
    first = "or, as likely by these runs: " if second else ""
    if one.kind == "pool":
        return Doubt(
            f"{first}the longer runs gain less from their tokens than the shorter ones have it, "
            f"as if from some length on tokens were seen again (the law of repeated data comes "
            f"{better:.1f} times nearer to all runs): look for {CAUSES['repeated']}; the column "
            "unique_tokens would tell",
            ("repeated",),
        )
    here = one.part.profile > 0
    count = int(here.sum())
    if one.kind == "exchanged":
        subject = one.part.words
    elif one.part.words and one.part.by != "any":
        subject = f"the {count} runs of {one.part.words} ({names(ids, here)})"
    else:
        subject = f"{count} runs ({names(ids, here)})"
    return Doubt(first + said(one, subject), named(one), tuple(i for i, h in zip(ids, here) if h))


def _curved(one: Alternative, ids: list[str]) -> Doubt:
    """Something is better than the law, but no mistake that is known."""
    where = "" if one.part is None or one.part.by == "any" else f", the most at {one.part.words}"
    return Doubt(
        f"the law's form does not hold over all of these runs{where}: they follow a curve that it "
        "has no room for, and what it says beyond them is off"
    )


def _convinces(one: Alternative, alone: Alternative, fitted: Fit, points: Points) -> bool:
    """Whether a part departs by much more than runs scatter, or nearly all is explained by it.

    A law that is a little curved over many runs is explained a little better by any of its ends.
    """
    if one.kind in ("noise", "loose", "rows", "exchanged"):
        return True
    if one.kind == "pool" or one.part.ramp:
        return alone.scale > EXPLAINED * one.scale and abs(one.step) < STEEPEST
    here = one.part.profile > 0
    law = fitted.law.predict(one.base[None], points)[0][0]
    away = np.abs(np.log(points.loss / law) - one.residuals)[here]
    return bool(np.median(away) > SETS_APART * one.scale)


def _matters(one: Alternative, fitted: Fit, points: Points) -> bool:
    if one.kind == "exchanged":
        return True
    if one.kind in ("loss", "tokenizer", "perplexity", "loose") and abs(one.step) > DEPARTS:
        return True
    if one.kind in ("parameters", "tokens") and abs(one.step) > COUNTS:
        return True
    if one.kind == "rows" and np.abs(one.residuals).max() > LOUD:
        return True
    if one.kind == "noise" and one.scatter > LOUD:
        return True
    ten = points.compute.max() * LARGER[1:2]
    moved = np.log(
        _optimum(fitted, one.base, points, ten) / _optimum(fitted, fitted.theta, points, ten)
    )
    return bool(np.abs(moved).max() > MOVES)


def _optimum(
    fitted: Fit, theta: Float[np.ndarray, "p"], points: Points, flops: Float[np.ndarray, "c"]
) -> Float[np.ndarray, "c"]:
    """The law's loss at its optima."""
    frontier = of_law(fitted.law, theta, np.empty((0, len(theta))), points)
    n = frontier.optimal_parameters(flops)[None]
    return losses(fitted.law, theta[None], n, frontier.cost.tokens(flops, n))[0]

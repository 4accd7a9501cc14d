"""Minimises the objective of one law from many starts, and for many reweightings, at one time.

A fit of five constants to some tens of runs takes microseconds of arithmetic; a thousand bootstrap
draws are a thousand of them. So everything carries a leading batch dimension, and one damped
Newton iteration moves all.

The step solves (H + lambda M + min(lambda, 1) diag) step = -gradient. H is the Gauss-Newton matrix
with Huber's second derivative (runs beyond delta do not count); M the one of iteratively
reweighted least squares (runs beyond delta count delta / |residual|), which majorises Huber's loss.
With lambda small that is Newton's step, quick near the minimum; with lambda large it is a short
step along which the objective must fall. diag is their sum's own diagonal (Levenberg, Marquardt):
where constants nearly do the same, H and M are singular to the last digit, and without it no
length of step points anywhere. Steps that do not lower the objective are not taken.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from unijax.scaling.laws import Predictor, Theta
from unijax.scaling.objective import Objective

ITERATIONS = 1000
BATCH_NUMBERS = 4_000_000  # of a batch's derivatives, at one time


class Solution(NamedTuple):
    """Where each start ended.

    Attributes:
      theta: coordinates.
      value: of the objective.
      converged: no step lowers the objective by a relative 1e-12.
    """

    theta: Theta
    value: Float[np.ndarray, "b"]
    converged: Bool[np.ndarray, "b"]


def minimise(
    law: Predictor,
    points: Any,
    objective: Objective,
    starts: Theta,
    weights: Float[np.ndarray, "b n"] | None = None,
    held: tuple[int, ...] = (),
    iterations: int = ITERATIONS,
) -> Solution:
    """The local minimum that each start leads to.

    Args:
      points: has `loss` [n]; the law knows the rest.
      weights: how often each run counts, for each start; None counts each once.
      held: coordinates that stay where the start has them, beside those that the law holds.
      iterations: at most; fewer where many starts are only told apart.
    """
    n, p = len(points.loss), starts.shape[1]
    if weights is None:
        weights = np.ones((len(starts), n))
    free = np.array(law.free) & ~np.isin(np.arange(p), held)
    at_once = max(1, BATCH_NUMBERS // (n * p))
    parts = [
        _minimise(law, points, objective, starts[here], weights[here], free, iterations)
        for here in (slice(i, i + at_once) for i in range(0, len(starts), at_once))
    ]
    return Solution(*(np.concatenate(x) for x in zip(*parts)))


def _evaluate(law, points, objective, theta, weights):
    """Value, and residuals with their derivatives; infinite where a prediction has no logarithm."""
    predicted, jacobian = law.predict(theta, points)
    bad = ~np.isfinite(predicted).all(axis=1) | (predicted <= 0).any(axis=1)
    predicted = np.where(bad[:, None], 1.0, predicted)
    residuals = objective.residuals(predicted, points.loss)
    value = np.where(bad, np.inf, objective.value(residuals, weights))
    return value, residuals, jacobian * objective.slopes(predicted)[..., None]


def _minimise(law, points, objective, starts, weights, free, iterations) -> Solution:
    lower, upper = law.lower, law.upper
    theta = np.where(free, np.clip(starts, lower, upper), starts)
    value, residuals, jacobian = _evaluate(law, points, objective, theta, weights)
    damping = np.full(len(theta), 1e-2)
    done = np.zeros(len(theta), bool)
    for _ in range(iterations):
        (now,) = np.nonzero(~done)
        if not len(now):
            break
        step, promised = _step(
            objective, residuals[now], jacobian[now], weights[now], damping[now], free,
            theta[now], lower, upper,
        )  # fmt: skip
        # Where even the undamped model promises nothing, the minimum is reached.
        finished = promised <= 1e-13 * np.maximum(value[now], 1e-300)
        trial = np.where(free, np.clip(theta[now] + step, lower, upper), theta[now])
        new, r, j = _evaluate(law, points, objective, trial, weights[now])
        better = new < value[now]
        moved = now[better]
        theta[moved], value[moved] = trial[better], new[better]
        residuals[moved], jacobian[moved] = r[better], j[better]
        damping[now] = np.where(better, damping[now] / 4, damping[now] * 5)
        damping[now] = np.maximum(damping[now], 1e-9)
        done[now] = finished | (damping[now] > 1e9)
    return Solution(theta, value, done)


def _step(objective, residuals, jacobian, weights, damping, free, theta, lower, upper):
    size = np.abs(residuals)
    slope = np.clip(residuals, -objective.delta, objective.delta)
    gradient = np.einsum("bn,bnp->bp", weights * slope, jacobian)
    # A coordinate at its bound that wants to go beyond it stays.
    pushed = ((theta <= lower) & (gradient > 0)) | ((theta >= upper) & (gradient < 0))
    moves = free & ~pushed
    gradient = np.where(moves, gradient, 0.0)
    newton = weights * (size <= objective.delta)
    reweighted = weights * np.minimum(1.0, objective.delta / np.maximum(size, 1e-300))
    mix = newton + damping[:, None] * reweighted
    matrix = np.swapaxes(jacobian * mix[..., None], 1, 2) @ jacobian
    both = moves[:, :, None] & moves[:, None, :]
    matrix = np.where(both, matrix, 0.0)
    # Relative to its own diagonal, so that units of the coordinates do not matter.
    diagonal = np.einsum("bpp->bp", matrix)
    scale = np.where(diagonal > 0, 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0)), 1.0)
    matrix = matrix * scale[:, :, None] * scale[:, None, :]
    added = 1e-13 + np.minimum(damping, 1.0)[:, None] + np.where(moves, 0.0, 1.0)
    matrix = matrix + added[:, :, None] * np.eye(matrix.shape[-1])
    step = -scale * np.linalg.solve(matrix, (scale * gradient)[..., None])[..., 0]
    step = np.where(moves, step, 0.0)
    return np.clip(step, -2.0, 2.0), -np.sum(step * gradient, axis=1) / 2

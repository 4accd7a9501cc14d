"""What would explain a table better than the law alone: mistakes in a part of its runs, all tried.

An alternative is the law with one thing more: a part whose losses, parameters or tokens are a
factor away (`departures`), a pool of data that is seen again, or runs that are wrong each for
itself or scatter more than the rest (`outliers`). All are fitted, and held against the law alone by
the likelihood of what they leave, less what they cost: constants, and being chosen among many.
"""

import dataclasses

import numpy as np
from jaxtyping import Float
from scipy import stats

from unijax.scaling.groups import Part
from unijax.scaling.laws import Predictor, Theta
from unijax.scaling.objective import Objective
from unijax.scaling.points import Points
from unijax.scaling.solver import minimise

CLIP = 1.5  # deviations beyond which a residual counts no more than linearly
KEPT = float(1 - 2 * stats.norm.sf(CLIP) * (1 - CLIP**2) - 2 * CLIP * stats.norm.pdf(CLIP))
TAILS = 4.0  # degrees of freedom of Student's density, by which residuals are likely
ROUNDS = 4  # of fitting, and of taking the scale anew
STEPS = 40  # of a search: alternatives are told apart long before they are exact
LEAST = 1e-5  # of a scale: of log losses without noise


@dataclasses.dataclass(frozen=True)
class Alternative:
    """An explanation, fitted.

    Attributes:
      kind: "law" for the law alone; "loss", "parameters", "tokens", "tokenizer" for a part that is
        a factor away; "exchanged", "pool", "rows", "noise".
      part: the runs that depart; None for all.
      base: the coordinates of the law of what does not depart.
      residuals: log of measured over fitted.
      scale: standard deviation of them, of the runs that neither depart nor are wrong.
      cost: minus twice the log likelihood and what it costs; the lower the better.
      step: the log of the factor by which the part departs; error: its standard error.
      scatter: of the part itself, where it scatters more than the rest.
    """

    kind: str
    part: Part | None
    base: Float[np.ndarray, "q"]
    residuals: Float[np.ndarray, "n"]
    scale: float
    cost: float
    step: float = 0.0
    error: float = 0.0
    scatter: float = 0.0


def off(law: Predictor, theta: Theta, points: Points) -> Float[np.ndarray, "b n"]:
    """Log of measured over fitted losses."""
    return np.log(points.loss) - np.log(law.predict(theta, points)[0])


def freedom(law: Predictor, points: Points) -> float:
    """Runs that are left when the constants are fitted."""
    return float(max(len(points) - sum(law.free), 1))


def clipped(scale: float) -> Objective:
    """Huber's loss of log losses that scatter by `scale`."""
    return Objective(CLIP * max(scale, LEAST))


def settled(
    law: Predictor, points: Points, theta: Theta, scale: float, held: tuple[int, ...] = ()
) -> tuple[Theta, Float[np.ndarray, "b n"], Float[np.ndarray, "b"]]:
    """Fits, clipped in proportion to the least scale among them.

    Args:
      scale: to begin with.

    Returns:
      Coordinates, residuals, and scales: of each Huber's second proposal, of its residuals with
      none counted beyond the clip.
    """
    left = freedom(law, points)
    for _ in range(ROUNDS):
        theta = minimise(law, points, clipped(scale), theta, held=held, iterations=STEPS).theta
        residuals = off(law, theta, points)
        scales = np.full(len(theta), scale)
        for _ in range(20):
            most = CLIP * np.maximum(scales, LEAST)[:, None]
            scales = np.sqrt(np.minimum(residuals**2, most**2).sum(axis=1) / KEPT / left)
        scale = float(scales.min())
    return theta, residuals, np.maximum(scales, LEAST)


def surprise(
    residuals: Float[np.ndarray, "*b n"], scale: Float[np.ndarray, "*#b #n"] | float
) -> Float[np.ndarray, "*b n"]:
    """Minus twice the log of Student's density of each residual, but for a constant."""
    return 2 * np.log(scale) + (TAILS + 1) * np.log1p(residuals**2 / (TAILS * scale**2))


def cost(
    residuals: Float[np.ndarray, "b n"], scales: Float[np.ndarray, "b"], left: float, tried: int
) -> Float[np.ndarray, "b"]:
    """What explanations cost that leave such residuals.

    Args:
      left: runs less constants: a fit makes residuals that much smaller than errors.
      tried: among how many this one was chosen.
    """
    count = residuals.shape[-1]
    return left / count * surprise(residuals, scales[:, None]).sum(axis=-1) + 2 * np.log(tried)

"""Repeated data: tokens seen again, and parameters beyond what the data can use, are worth less.

Muennighoff et al. (arXiv 2305.16264, sections 3.1, 5 and appendix A):

    L = E + A N'^-alpha + B D'^-beta
    D' = U_D + U_D R_D* (1 - exp(-R_D / R_D*)),   R_D = D / U_D - 1
    N' = U_N + U_N R_N* (1 - exp(-R_N / R_N*)),   R_N = N / U_N - 1

U_D: different tokens among D. U_N: the compute-optimal parameters for U_D, or N where that is less.
As there, E, A, B, alpha and beta come from the runs that see each token once; the two half-lives
R_D* and R_N* from all runs, with those held. The law only lets repetition saturate: runs that got
worse by more epochs do not fit it. Nor is it at one with itself for single epochs of more
parameters than U_N, which count whole in the base and less here: fit the base to runs of about the
optimal tokens per parameter, or more.
"""

import dataclasses
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float

from unijax.core.errors import UserError
from unijax.scaling.bootstrap import resample
from unijax.scaling.fit import Fit
from unijax.scaling.laws import Chinchilla, Theta
from unijax.scaling.points import Points
from unijax.scaling.solver import minimise

ONCE = 1.01  # a run that sees its tokens at most so often counts as a single epoch
BOUNDS = np.log([0.05, 5000.0])


def single_epoch(points: Points) -> Bool[np.ndarray, "n"]:
    """Runs that see each token once.

    Raises:
      UserError: where the different tokens are not known.
    """
    if points.unique_tokens is None:
        raise UserError(
            "repeated data", "no column unique_tokens", "how many different tokens each run saw",
            "Add the column, or fit the law without repetition.",
        )  # fmt: skip
    return points.tokens <= ONCE * points.unique_tokens


@dataclasses.dataclass(frozen=True)
class Repeated:
    """The law, whose first five coordinates are those of `base` and held.

    Attributes:
      base: fitted to single epochs.
      base_theta: its fitted coordinates.
    """

    base: Chinchilla
    base_theta: Float[np.ndarray, "q"]

    form: ClassVar[str] = "L = E + A N'^-alpha + B D'^-beta"

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.base.names, "log_R_D", "log_R_N")

    @property
    def free(self) -> tuple[bool, ...]:
        return (False,) * len(self.base.names) + (True, True)

    @property
    def searched(self) -> tuple[int, ...]:
        return (len(self.names) - 2, len(self.names) - 1)

    @property
    def lower(self) -> Float[np.ndarray, "p"]:
        return np.append(self.base.lower, [BOUNDS[0]] * 2)

    @property
    def upper(self) -> Float[np.ndarray, "p"]:
        return np.append(self.base.upper, [BOUNDS[1]] * 2)

    def predict(
        self, theta: Theta, points: Points
    ) -> tuple[Float[np.ndarray, "b n"], Float[np.ndarray, "b n p"]]:
        c = {k: v[:, None] for k, v in self.base.constants(theta[:, :-2]).items()}
        unique = np.minimum(points.unique_tokens, points.tokens)
        useful = np.minimum(optimal_parameters(c, unique), points.parameters)
        d, by_rd = worth(unique, points.tokens / unique - 1, np.exp(theta[:, -2, None]))
        n, by_rn = worth(useful, points.parameters / useful - 1, np.exp(theta[:, -1, None]))
        a = np.exp(np.log(c["A"]) - c["alpha"] * np.log(n))
        b = np.exp(np.log(c["B"]) - c["beta"] * np.log(d))
        jacobian = np.zeros((*a.shape, theta.shape[1]))
        jacobian[..., -2] = -c["beta"] * b / d * by_rd
        jacobian[..., -1] = -c["alpha"] * a / n * by_rn
        return c["E"] + a + b, jacobian

    def start(self, searched: Float[np.ndarray, "b s"], points: Points) -> Theta:
        held = np.broadcast_to(self.base_theta, (len(searched), len(self.base_theta)))
        return np.concatenate([held, searched], axis=1)

    def grid(self) -> Float[np.ndarray, "b s"]:
        values = np.log(np.geomspace(0.3, 300.0, 16))
        return np.stack(np.meshgrid(values, values, indexing="ij"), axis=-1).reshape(-1, 2)

    def constants(self, theta: Theta) -> dict[str, Float[np.ndarray, "b"]]:
        half_lives = {"R_D": np.exp(theta[:, -2]), "R_N": np.exp(theta[:, -1])}
        return self.base.constants(theta[:, :-2]) | half_lives


def optimal_parameters(
    constants: dict[str, Float[np.ndarray, "*b"]], tokens: Float[np.ndarray, "n"]
) -> Float[np.ndarray, "..."]:
    """Compute-optimal N for D tokens: G (G D)^(beta / alpha), G as in `frontier`; at least 1."""
    alpha, beta = constants["alpha"], constants["beta"]
    log_g = np.log(alpha * constants["A"] / (beta * constants["B"])) / (alpha + beta)
    # Draws of the bootstrap with tiny exponents go beyond what a double holds.
    return np.exp(np.clip(log_g + beta / alpha * (log_g + np.log(tokens)), 0.0, 700.0))


def worth(
    unique: Float[np.ndarray, "..."],
    repetitions: Float[np.ndarray, "..."],
    half_life: Float[np.ndarray, "..."],
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Fresh tokens (or parameters) that repeated ones are worth; and that by log half-life."""
    share = repetitions / half_life
    gone = np.exp(-share)
    value = unique + unique * half_life * (1 - gone)
    return value, unique * half_life * (1 - gone - share * gone)


def bootstrap_half_lives(
    fitted: Fit, points: Points, base_draws: Float[np.ndarray, "draws q"], seed: int
) -> Float[np.ndarray, "draws p"]:
    """Coordinates [draws, p] of the law: each draw of `base_draws` held, all runs resampled."""
    rng = np.random.default_rng(seed)
    several = lambda here: np.sum(here) > 2  # noqa: E731
    counts = resample(rng, len(points), len(base_draws), several).astype(float)
    starts = np.concatenate(
        [base_draws, np.broadcast_to(fitted.theta[-2:], (len(base_draws), 2))], axis=1
    )
    return minimise(fitted.law, points, fitted.objective, starts, counts).theta

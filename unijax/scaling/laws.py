"""Laws of loss against parameters and data: L = E + A N^-alpha + B D^-beta.

Hoffmann et al. (arXiv 2203.15556, equation 10). `tied` makes the exponents equal, which is the form
of Gadre et al. (arXiv 2403.08540, equation 4) with C = 6 N D.

A law is fitted in coordinates in which the search is well conditioned: the logarithm of each term
at the geometric middle of the runs, and the exponents. Only `constants` speaks of A and B.
"""

import dataclasses
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from unijax.scaling.points import Points

Theta = Float[np.ndarray, "b p"]
EXPONENTS = (0.02, 3.0)  # bounds: beyond them a term is a constant, or gone
TERMS = (1e-6, 50.0)  # bounds of a term in the middle of the runs, as a share of the median loss


@runtime_checkable
class Predictor(Protocol):
    """A family of curves, evaluated for many parameter vectors at one time: what is minimised.

    Attributes:
      names: of the p coordinates.
      free: which coordinates a fit may move; the others are carried along.
      lower, upper: bounds of the coordinates.
    """

    names: tuple[str, ...]
    free: tuple[bool, ...]
    lower: Float[np.ndarray, "p"]
    upper: Float[np.ndarray, "p"]

    def predict(
        self, theta: Theta, points: Any
    ) -> tuple[Float[np.ndarray, "b n"], Float[np.ndarray, "b n p"]]:
        """Losses, and their derivatives by the coordinates."""
        ...


@runtime_checkable
class Law(Predictor, Protocol):
    """Curves that a fit finds without being told where to begin.

    Attributes:
      searched: which coordinates the first search ranges over; in the rest of the free ones the
        prediction is linear, or linear in their exponentials.
    """

    searched: tuple[int, ...]

    def start(self, searched: Float[np.ndarray, "b s"], points: Any) -> Theta:
        """Whole vectors for values of the searched coordinates, the rest by least squares."""
        ...

    def grid(self) -> Float[np.ndarray, "b s"]:
        """Values of the searched coordinates to begin with."""
        ...

    def constants(self, theta: Theta) -> dict[str, Float[np.ndarray, "b"]]:
        """The constants as they are published."""
        ...


@dataclasses.dataclass(frozen=True)
class Chinchilla:
    """L = E + A N^-alpha + B D^-beta.

    Attributes:
      middle: log N, log D and log L in the middle of the runs.
      tied: one exponent for both terms.
    """

    middle: tuple[float, float, float]
    tied: bool = False

    form: ClassVar[str] = "L = E + A N^-alpha + B D^-beta"

    @classmethod
    def of(cls, points: Points, tied: bool = False) -> "Chinchilla":
        """The law in coordinates that fit `points`."""
        middle = (np.log(points.parameters), np.log(points.tokens), np.log(np.median(points.loss)))
        return cls(tuple(float(np.mean(x)) for x in middle), tied)

    @property
    def names(self) -> tuple[str, ...]:
        exponents = ("gamma",) if self.tied else ("alpha", "beta")
        return ("log_E", "log_A_term", "log_B_term", *exponents)

    @property
    def free(self) -> tuple[bool, ...]:
        return (True,) * len(self.names)

    @property
    def searched(self) -> tuple[int, ...]:
        return tuple(range(3, len(self.names)))

    @property
    def lower(self) -> Float[np.ndarray, "p"]:
        term = np.log(TERMS[0]) + self.middle[2]
        return np.array([term] * 3 + [EXPONENTS[0]] * len(self.searched))

    @property
    def upper(self) -> Float[np.ndarray, "p"]:
        term = np.log(TERMS[1]) + self.middle[2]
        return np.array([term] * 3 + [EXPONENTS[1]] * len(self.searched))

    def _terms(self, theta: Theta, points: Points):
        x, y = np.log(points.parameters) - self.middle[0], np.log(points.tokens) - self.middle[1]
        with np.errstate(over="ignore"):
            a = np.exp(theta[:, 1, None] - theta[:, 3, None] * x)
            b = np.exp(theta[:, 2, None] - theta[:, -1, None] * y)
        return x, y, a, b

    def predict(
        self, theta: Theta, points: Points
    ) -> tuple[Float[np.ndarray, "b n"], Float[np.ndarray, "b n p"]]:
        x, y, a, b = self._terms(theta, points)
        e = np.broadcast_to(np.exp(theta[:, :1]), a.shape)
        by_exponent = [-x * a - y * b] if self.tied else [-x * a, -y * b]
        return e + a + b, np.stack([e, a, b, *by_exponent], axis=-1)

    def start(self, searched: Float[np.ndarray, "b s"], points: Points) -> Theta:
        theta = np.zeros((len(searched), len(self.names)))
        theta[:, 3:] = searched
        _, _, a, b = self._terms(theta, points)
        design = np.stack([np.ones_like(a), a, b], axis=-1)
        coefficients = relative_least_squares(design, points.loss, points.loss)
        floor = TERMS[0] * np.exp(self.middle[2])
        theta[:, :3] = np.log(np.maximum(coefficients, 100 * floor))
        return theta

    def grid(self) -> Float[np.ndarray, "b s"]:
        values = np.geomspace(0.05, 1.5, 18)
        if self.tied:
            return values[:, None]
        return np.stack(np.meshgrid(values, values, indexing="ij"), axis=-1).reshape(-1, 2)

    def constants(self, theta: Theta) -> dict[str, Float[np.ndarray, "b"]]:
        alpha, beta = theta[:, 3], theta[:, -1]
        return {
            "E": np.exp(theta[:, 0]),
            "A": np.exp(theta[:, 1] + alpha * self.middle[0]),
            "B": np.exp(theta[:, 2] + beta * self.middle[1]),
            "alpha": alpha,
            "beta": beta,
        }


def relative_least_squares(
    design: Float[np.ndarray, "b n k"],
    target: Float[np.ndarray, "n"],
    loss: Float[np.ndarray, "n"],
) -> Float[np.ndarray, "b k"]:
    """Coefficients c that make the sum of squares of (design c - target) / loss least."""
    scaled = design / loss[:, None]
    # The small ridge decides where two columns are the same, as they are for runs of one size.
    normal = np.swapaxes(scaled, 1, 2) @ scaled
    trace = np.trace(normal, axis1=1, axis2=2)[:, None, None]
    normal = normal + 1e-12 * trace * np.eye(design.shape[-1])
    right = np.einsum("bnk,n->bk", scaled, target / loss)
    return np.linalg.solve(normal, right[..., None])[..., 0]

"""Two modalities in one model: the mean of their unimodal laws, and how they help or hinder.

Aghajanyan et al. (arXiv 2301.03728, section 5):

    L(N, D_i, D_j) = (L_i(N, D_i) + L_j(N, D_j)) / 2 - C + A N^-alpha + B (D_i + D_j)^-beta

C is the most that the modalities can gain from one another; the other two terms are what they lose
by competing for parameters and for steps. Where those are below C, the mixed run is better than two
runs of one modality each: the competition barrier. The unimodal laws are fitted to unimodal runs
first and held. `shares` other than a half each asks the same of one modality's loss alone (1, 0),
which is our extension.
"""

import dataclasses
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from unijax.scaling.laws import EXPONENTS, TERMS, Chinchilla, Theta, relative_least_squares
from unijax.scaling.points import Points


@dataclasses.dataclass(frozen=True)
class MixedPoints:
    """n runs on two modalities.

    Attributes:
      parameters: N.
      tokens_first, tokens_second: D_i and D_j.
      loss: the mean of both modalities' losses by the law's shares.
    """

    parameters: Float[np.ndarray, "n"]
    tokens_first: Float[np.ndarray, "n"]
    tokens_second: Float[np.ndarray, "n"]
    loss: Float[np.ndarray, "n"]

    @property
    def tokens(self) -> Float[np.ndarray, "n"]:
        """Of both."""
        return self.tokens_first + self.tokens_second


@dataclasses.dataclass(frozen=True)
class Bimodal:
    """The law. Its coordinates are C, the logs of both terms in the middle, and the exponents,
    after the coordinates of both unimodal laws, which are held.

    Attributes:
      first, second: the unimodal laws.
      held: their fitted coordinates.
      middle: log N, log (D_i + D_j) and log L in the middle of the mixed runs.
      shares: of the modalities in the loss.
    """

    first: Chinchilla
    second: Chinchilla
    held: tuple[Float[np.ndarray, "q"], Float[np.ndarray, "r"]]
    middle: tuple[float, float, float]
    shares: tuple[float, float] = (0.5, 0.5)

    form: ClassVar[str] = "L = mean of L_i and L_j - C + A N^-alpha + B (D_i + D_j)^-beta"

    @classmethod
    def of(cls, first, second, points: MixedPoints, shares=(0.5, 0.5)) -> "Bimodal":
        """The interaction between two fitted unimodal laws (`Fit`s), at `points`."""
        middle = (np.log(points.parameters), np.log(points.tokens), np.log(np.median(points.loss)))
        return cls(
            first.law,
            second.law,
            (first.theta, second.theta),
            tuple(float(np.mean(x)) for x in middle),
            shares,
        )

    @property
    def names(self) -> tuple[str, ...]:
        ours = ("C", "log_A_term", "log_B_term", "alpha", "beta")
        theirs = [f"first_{n}" for n in self.first.names]
        return (*theirs, *(f"second_{n}" for n in self.second.names), *ours)

    @property
    def _start(self) -> int:
        return len(self.first.names) + len(self.second.names)

    @property
    def free(self) -> tuple[bool, ...]:
        return (False,) * self._start + (True,) * 5

    @property
    def searched(self) -> tuple[int, ...]:
        return (self._start + 3, self._start + 4)

    @property
    def lower(self) -> Float[np.ndarray, "p"]:
        loss = np.exp(self.middle[2])
        term = np.log(TERMS[0]) + self.middle[2]
        ours = [-loss, term, term, EXPONENTS[0], EXPONENTS[0]]
        return np.concatenate([self.first.lower, self.second.lower, ours])

    @property
    def upper(self) -> Float[np.ndarray, "p"]:
        loss = np.exp(self.middle[2])
        ours = [loss, self.middle[2], self.middle[2], EXPONENTS[1], EXPONENTS[1]]
        return np.concatenate([self.first.upper, self.second.upper, ours])

    def unimodal(self, theta: Theta, points: MixedPoints) -> Float[np.ndarray, "b n"]:
        """What two runs of one modality each would reach: the mean of their losses."""
        p, q = len(self.first.names), self._start
        first = Points(points.parameters, points.tokens_first, points.loss)
        second = Points(points.parameters, points.tokens_second, points.loss)
        left = self.first.predict(theta[:, :p], first)[0]
        right = self.second.predict(theta[:, p:q], second)[0]
        return self.shares[0] * left + self.shares[1] * right

    def _terms(self, ours: Theta, points: MixedPoints):
        x, y = np.log(points.parameters) - self.middle[0], np.log(points.tokens) - self.middle[1]
        a = np.exp(ours[:, 1, None] - ours[:, 3, None] * x)
        return x, y, a, np.exp(ours[:, 2, None] - ours[:, 4, None] * y)

    def predict(
        self, theta: Theta, points: MixedPoints
    ) -> tuple[Float[np.ndarray, "b n"], Float[np.ndarray, "b n p"]]:
        ours = theta[:, self._start :]
        x, y, a, b = self._terms(ours, points)
        jacobian = np.zeros((*a.shape, theta.shape[1]))
        jacobian[..., self._start :] = np.stack([-np.ones_like(a), a, b, -x * a, -y * b], axis=-1)
        return self.unimodal(theta, points) - ours[:, :1] + a + b, jacobian

    def start(self, searched: Float[np.ndarray, "b s"], points: MixedPoints) -> Theta:
        held = np.broadcast_to(np.concatenate(self.held), (len(searched), self._start))
        ours = np.zeros((len(searched), 5))
        ours[:, 3:] = searched
        _, _, a, b = self._terms(ours, points)
        base = self.unimodal(held, points)[:1]
        design = np.stack([-np.ones_like(a), a, b], axis=-1)
        c = relative_least_squares(design, points.loss - base[0], points.loss)
        floor = 1e-4 * np.exp(self.middle[2])
        ours[:, 0], ours[:, 1:3] = c[:, 0], np.log(np.maximum(c[:, 1:], floor))
        return np.concatenate([held, ours], axis=1)

    def grid(self) -> Float[np.ndarray, "b s"]:
        values = np.geomspace(0.05, 1.5, 16)
        return np.stack(np.meshgrid(values, values, indexing="ij"), axis=-1).reshape(-1, 2)

    def constants(self, theta: Theta) -> dict[str, Float[np.ndarray, "b"]]:
        ours = theta[:, self._start :]
        return {
            "C": ours[:, 0],
            "A": np.exp(ours[:, 1] + ours[:, 3] * self.middle[0]),
            "B": np.exp(ours[:, 2] + ours[:, 4] * self.middle[1]),
            "alpha": ours[:, 3],
            "beta": ours[:, 4],
        }

"""A law of which a part of the runs departs by one factor: what a mistake in a table looks like.

A run's loss, parameters or tokens are a factor away from what the column says, for the runs of a
part; so the law is fitted together with that factor. Many parts are tried at one time, each a row
of `profiles`.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from unijax.scaling.laws import Chinchilla, Theta
from unijax.scaling.points import Points

# What a factor multiplies: the loss, N and D, each by this power of it.
LOSS, PARAMETERS, TOKENS = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
TOKENIZER = (1.0, 0.0, 1.0)  # so many fewer tokens of the same text, each with so much more loss
MOST = 9.0  # of the logarithm of a factor


@dataclasses.dataclass(frozen=True)
class Shifted:
    """The law, a coordinate that is the logarithm of the factor, and one that says which profile.

    Attributes:
      base: the law of the runs that do not depart.
      profiles: [g, n], how far each run departs: 0 or 1, or in between.
      powers: [g, 3], of the factor, on loss, N and D.
    """

    base: Chinchilla
    profiles: Float[np.ndarray, "g n"]
    powers: Float[np.ndarray, "g 3"]

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.base.names, "log_factor", "profile")

    @property
    def free(self) -> tuple[bool, ...]:
        return (*self.base.free, True, False)

    @property
    def lower(self) -> Float[np.ndarray, "p"]:
        return np.append(self.base.lower, [-MOST, 0.0])

    @property
    def upper(self) -> Float[np.ndarray, "p"]:
        return np.append(self.base.upper, [MOST, float(len(self.profiles))])

    def predict(
        self, theta: Theta, points: Points
    ) -> tuple[Float[np.ndarray, "b n"], Float[np.ndarray, "b n p"]]:
        which = theta[:, -1].astype(int)
        profile, powers = self.profiles[which], self.powers[which]
        step = theta[:, -2, None] * profile
        on_loss, on_n, on_d = (powers[:, i, None] for i in range(3))
        base = theta[:, :-2]
        middle = self.base.middle
        x = np.log(points.parameters) - middle[0] + on_n * step
        y = np.log(points.tokens) - middle[1] + on_d * step
        with np.errstate(over="ignore", invalid="ignore"):
            factor = np.exp(on_loss * step)
            a = np.exp(base[:, 1, None] - base[:, 3, None] * x) * factor
            b = np.exp(base[:, 2, None] - base[:, -1, None] * y) * factor
            e = np.exp(base[:, :1]) * factor
            loss = e + a + b
            by_n, by_d = -base[:, 3, None] * a, -base[:, -1, None] * b
            by_step = (on_loss * loss + on_n * by_n + on_d * by_d) * profile
            exponents = [-x * a - y * b] if self.base.tied else [-x * a, -y * b]
        jacobian = np.stack([e, a, b, *exponents, by_step, np.zeros_like(a)], axis=-1)
        return loss, jacobian

    def start(
        self, theta: Float[np.ndarray, "b q"], steps: Float[np.ndarray, "b"]
    ) -> Float[np.ndarray, "b p"]:
        """Coordinates of the base and a log factor, one for each profile."""
        which = np.arange(len(steps), dtype=float)
        return np.concatenate([theta, steps[:, None], which[:, None]], axis=1)

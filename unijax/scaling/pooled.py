"""A law of runs that draw on a pool of data: beyond its size tokens are seen again, worth less.

D' of Muennighoff et al. (arXiv 2305.16264, section 3.1) where nobody said how many tokens are
different: the size of the pool and the half-life of repetition are fitted beside the law.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from unijax.scaling.laws import Chinchilla, Theta
from unijax.scaling.points import Points

HALF_LIVES = (0.5, 100.0)  # bounds, in repetitions


@dataclasses.dataclass(frozen=True)
class Pooled:
    """The law with D' in place of D, and coordinates log U and log R_D* beside its own.

    Attributes:
      base: the law of fresh tokens.
      ends: log D of the shortest and of the longest run: the pool is in between.
    """

    base: Chinchilla
    ends: tuple[float, float]

    @classmethod
    def of(cls, base: Chinchilla, points: Points) -> "Pooled":
        d = np.log(points.tokens)
        return cls(base, (float(d.min()), float(d.max())))

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.base.names, "log_U", "log_R_D")

    @property
    def free(self) -> tuple[bool, ...]:
        return (*self.base.free, True, True)

    @property
    def lower(self) -> Float[np.ndarray, "p"]:
        return np.append(self.base.lower, [self.ends[0], np.log(HALF_LIVES[0])])

    @property
    def upper(self) -> Float[np.ndarray, "p"]:
        return np.append(self.base.upper, [self.ends[1], np.log(HALF_LIVES[1])])

    def starts(self, base: Float[np.ndarray, "q"]) -> Float[np.ndarray, "b p"]:
        """From the law's own coordinates: six pools, two half-lives."""
        pools = np.linspace(*self.ends, 8)[1:-1]
        both = np.array([(u, np.log(r)) for u in pools for r in (3.0, 20.0)])
        return np.concatenate([np.repeat(base[None], len(both), 0), both], axis=1)

    def predict(
        self, theta: Theta, points: Points
    ) -> tuple[Float[np.ndarray, "b n"], Float[np.ndarray, "b n p"]]:
        pool, half = np.exp(theta[:, -2, None]), np.exp(theta[:, -1, None])
        tokens = points.tokens
        again = np.maximum(tokens / pool - 1, 0)
        share = again / half
        gone = np.exp(-share)
        worth = np.minimum(tokens, pool) + pool * half * (1 - gone)
        loss, jacobian = self.base.predict(theta[:, :-2], points)
        # The term of D is by its own coordinate; it changes as worth^-beta.
        beta = theta[:, -3, None]
        term = jacobian[:, :, 2]
        ratio = np.exp(-beta * (np.log(worth) - np.log(tokens)))
        fresh = term * ratio
        y = np.log(worth) - self.base.middle[1]
        columns = [jacobian[:, :, i] for i in range(jacobian.shape[2])]
        columns[2] = fresh
        columns[-1] = columns[-1] - (-(np.log(tokens) - self.base.middle[1]) * term) - y * fresh
        # d worth / d log U where tokens are seen again: U (1 + R (1 - e^-s)) - D e^-s.
        by_pool = np.where(again > 0, pool + pool * half * (1 - gone) - tokens * gone, 0.0)
        by_half = pool * half * (1 - gone - share * gone)
        columns += [-beta * fresh * by_pool / worth, -beta * fresh * by_half / worth]
        return loss - term + fresh, np.stack(columns, axis=-1)

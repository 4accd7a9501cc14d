"""The robust objective: Huber's loss of the residuals, summed over runs, never averaged.

Hoffmann et al. (arXiv 2203.15556, section 3.3) minimise the sum of Huber's loss, delta 1e-3, of the
differences of logarithms. A mean instead of a sum only rescales it, but then an optimizer's fixed
tolerance stops early: that is what spoilt the published constants (Besiroglu et al., arXiv
2404.10102).
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from unijax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Objective:
    """How a prediction is held against a measured loss.

    Attributes:
      delta: where Huber's loss turns from squares to absolute values; infinite for squares alone.
      residual: "log" for differences of logarithms, "linear" for differences of losses.
    """

    delta: float = 1e-3
    residual: str = "log"

    def __post_init__(self):
        if self.residual not in ("log", "linear"):
            raise UserError(
                "objective.residual", repr(self.residual), "'log' or 'linear'", "Correct it."
            )
        if not self.delta > 0:
            raise UserError("objective.delta", f"{self.delta}", "a number above 0", "Correct it.")

    def residuals(
        self, predicted: Float[np.ndarray, "*b n"], observed: Float[np.ndarray, "n"]
    ) -> Float[np.ndarray, "*b n"]:
        """Predicted minus observed, on the chosen scale; a prediction must be positive for logs."""
        if self.residual == "linear":
            return predicted - observed
        return np.log(predicted) - np.log(observed)

    def slopes(self, predicted: Float[np.ndarray, "*b n"]) -> Float[np.ndarray, "*b n"]:
        """Derivative of a residual by its prediction."""
        return np.ones_like(predicted) if self.residual == "linear" else 1 / predicted

    def value(
        self, residuals: Float[np.ndarray, "*b n"], weights: Float[np.ndarray, "*#b n"]
    ) -> Float[np.ndarray, "*b"]:
        """The sum of weight times Huber's loss."""
        size = np.abs(residuals)
        inside = np.minimum(size, self.delta)
        with np.errstate(invalid="ignore"):
            huber = inside * (size - inside / 2)
        return np.asarray(np.sum(weights * huber, axis=-1))

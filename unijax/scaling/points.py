"""What a law is fitted to: one loss of many runs, beside the size and the data of each."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int


@dataclasses.dataclass(frozen=True)
class Points:
    """One loss of n runs.

    Attributes:
      parameters: N, of whichever count the study chose.
      tokens: D, seen in training, repetitions included.
      loss: nats per token.
      flops: training compute C; None where it is 6 N D.
      unique_tokens: different tokens among `tokens`; None where each was seen once.
    """

    parameters: Float[np.ndarray, "n"]
    tokens: Float[np.ndarray, "n"]
    loss: Float[np.ndarray, "n"]
    flops: Float[np.ndarray, "n"] | None = None
    unique_tokens: Float[np.ndarray, "n"] | None = None

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def compute(self) -> Float[np.ndarray, "n"]:
        """`flops`, or 6 N D (Kaplan et al., arXiv 2001.08361, section 2.1)."""
        return 6 * self.parameters * self.tokens if self.flops is None else self.flops

    def take(self, index: Int[np.ndarray, "m"]) -> "Points":
        """Some of the runs, in the order of `index`."""
        parts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return Points(**{k: None if v is None else v[index] for k, v in parts.items()})


def beyond(seen: Float[np.ndarray, "n"], value: float) -> float:
    """By what factor a size, tokens or compute lie outside of what runs had; 1 where inside."""
    return float(max(1.0, value / seen.max(), seen.min() / value))


def clusters(values: Float[np.ndarray, "n"], width: float) -> Int[np.ndarray, "n"]:
    """Of each value, by rising values from 0; a new one where the last's first is `width` below."""
    found = np.zeros(len(values), int)
    cluster, first = 0, values.min()
    for i in np.argsort(values, kind="stable"):
        if values[i] > first + width:
            cluster, first = cluster + 1, values[i]
        found[i] = cluster
    return found

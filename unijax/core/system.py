"""What the loop knows of a system."""

import functools
from typing import Any, Protocol, runtime_checkable

import jax
from jax import Array

Params = dict[str, Any]  # nested dicts of arrays
Sums = dict[str, Array]  # scalar sums by the name of a loss term
# (sum, weight) by name, float32 scalars; the metric is their quotient.
Metrics = dict[str, tuple[Array, Array]]


@runtime_checkable
class System(Protocol):
    """A recipe: how networks are joined, and what is minimised.

    Equal systems are hashed alike (frozen dataclasses are): what is traced of one serves the other.

    The loop minimises the sum over terms of `loss(...)[0][term] / weights(...)[term]`.

    Attributes:
      encoders: top-level groups on the input side; frozen ones cost a forward pass alone.
      rows_alone: whether the sums of a batch are those of its rows, so that a step may work them in
        parts.
    """

    encoders: frozenset[str]
    rows_alone: bool

    def init(self, key: Array) -> Params:
        """Fresh parameters, each boxed with its logical axis names."""
        ...

    def weights(self, batch: Any) -> Sums:
        """The denominator of every term, from the batch alone."""
        ...

    def counts(self, batch: Any) -> Metrics:
        """Metrics of a step's batch that need no parameters, such as its tokens."""
        ...

    def loss(
        self, params: Params, batch: Any, key: Array, step: Array, frozen: frozenset[str]
    ) -> tuple[Sums, Metrics]:
        """Sums of the terms, and metrics.

        Args:
          params: the whole nested tree, trained and frozen leaves together.
          batch: what the system eats.
          key: of this step.
          step: optimizer steps taken so far, int32 scalar.
          frozen: paths that are not trained, so that work for their gradients can be left out.
        """
        ...

    def forward_flops(self, batch: Any, as_causal: bool = False) -> dict[str, Array]:
        """Forward FLOPs of a batch by top-level parameter group, padding excluded.

        Products in which no parameter takes part have a name of their own.

        Args:
          as_causal: count attention as if every packed row were one causal document, padding
            included, as most projects do; otherwise the pairs that are seen, the work to be done.
        """
        ...


@functools.lru_cache(maxsize=64)  # a sweep plans, trains and counts the same few systems
def init_shapes(system: System) -> Params:
    """What `system.init` gives, as shapes; nothing is computed."""
    return jax.eval_shape(lambda: system.init(jax.random.key(0)))

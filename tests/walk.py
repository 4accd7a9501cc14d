"""Every value of a program, those of loops and custom gradients included."""

from collections.abc import Iterator
from typing import Any

import jax
from jax.extend import core as jex


def all_equations(jaxpr: Any) -> Iterator[Any]:
    """The equations of a jaxpr and of all jaxprs inside it."""
    jaxpr = jaxpr.jaxpr if isinstance(jaxpr, jex.ClosedJaxpr) else jaxpr
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(
            equation.params, is_leaf=lambda x: isinstance(x, (jex.Jaxpr, jex.ClosedJaxpr))
        ):
            if isinstance(value, (jex.Jaxpr, jex.ClosedJaxpr)):
                yield from all_equations(value)


def all_avals(jaxpr: Any) -> Iterator[Any]:
    """Shape and dtype of every result of every equation."""
    for equation in all_equations(jaxpr):
        for variable in equation.outvars:
            if hasattr(variable.aval, "shape"):
                yield variable.aval

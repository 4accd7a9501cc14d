"""Every value of a program, those of loops and custom gradients included."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex


def _inside(equation: Any) -> list[Any]:
    """The jaxprs among the parameters of an equation."""
    is_jaxpr = lambda x: isinstance(x, (jex.Jaxpr, jex.ClosedJaxpr))  # noqa: E731
    return [x for x in jax.tree.leaves(equation.params, is_leaf=is_jaxpr) if is_jaxpr(x)]


def all_equations(jaxpr: Any) -> Iterator[Any]:
    """The equations of a jaxpr and of all jaxprs inside it."""
    jaxpr = jaxpr.jaxpr if isinstance(jaxpr, jex.ClosedJaxpr) else jaxpr
    for equation in jaxpr.eqns:
        yield equation
        for inner in _inside(equation):
            yield from all_equations(inner)


def all_avals(jaxpr: Any) -> Iterator[Any]:
    """Shape and dtype of every result of every equation."""
    for equation in all_equations(jaxpr):
        for variable in equation.outvars:
            if hasattr(variable.aval, "shape"):
                yield variable.aval


def product_flops(jaxpr: Any) -> int:
    """Of matrix products and convolutions, 2 per multiply-add, a scan's body as often as it runs.

    The body of a loop of unknown length counts once; of branches, the one that has most.
    """
    jaxpr = jaxpr.jaxpr if isinstance(jaxpr, jex.ClosedJaxpr) else jaxpr
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            depth = np.prod([equation.invars[0].aval.shape[i] for i in contracted], dtype=int)
            total += 2 * int(depth) * equation.outvars[0].aval.size
        if equation.primitive.name == "conv_general_dilated":
            total += _of_convolution(equation)
        inner = [product_flops(x) for x in _inside(equation)]
        if equation.primitive.name == "cond":
            inner = [max(inner)]
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += sum(inner) * times
    return total


def _of_convolution(equation: Any) -> int:
    """Products with the zeros between the values of a dilated input are none."""
    kernel, names = equation.invars[1].aval, equation.params["dimension_numbers"]
    per_output = kernel.size // kernel.shape[names.rhs_spec[0]]
    zeros = np.prod(equation.params["lhs_dilation"], dtype=int)
    return 2 * equation.outvars[0].aval.size * per_output // int(zeros)

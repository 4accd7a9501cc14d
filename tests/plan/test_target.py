"""Compilers without their devices: what a program is known by."""

import os

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl

from unijax.plan import target

KERNEL = """
def kernel(x, y):
    y[...] = x[...] + 1.0

def call(x):
    return pl.pallas_call(kernel, out_shape=x)(x)
"""


@pytest.fixture
def prepared(monkeypatch):
    """Undone at the end."""
    before = jax.config.jax_traceback_in_locations_limit
    monkeypatch.setattr(os, "environ", dict(os.environ))
    target.prepare()
    yield
    jax.config.update("jax_traceback_in_locations_limit", before)


def lowered(lines_above: int, file: str) -> str:
    """A kernel for TPUs, from so far down in a file."""
    names = {"pl": pl}
    exec(compile("\n" * lines_above + KERNEL, file, "exec"), names)
    traced = jax.jit(names["call"]).trace(jnp.zeros((8, 128)))
    return traced.lower(lowering_platforms=("tpu",)).as_text()


def test_a_program_is_the_same_wherever_its_kernels_are_written(prepared):
    text = lowered(1, "/somewhere/kernels.py")
    assert "tpu_custom_call" in text
    assert lowered(5, "/elsewhere/ops.py") == text

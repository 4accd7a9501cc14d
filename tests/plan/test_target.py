"""Compilers without their devices: what a program is known by, and what is said without one."""

import importlib.util
import os

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl

from unijax.core.errors import UserError
from unijax.plan import hardware, target

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


@pytest.mark.parametrize(("text", "package"), [("v5e:2x2", "libtpu"), ("h100:8", "jax[cuda13]")])
def test_without_a_compiler_the_error_says_which_package_has_it(monkeypatch, text, package):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as error:
        target.devices(hardware.parse(text))
    assert f"pip install '{package}'" in str(error.value)


@pytest.mark.parametrize("text", ["v5e:2x2", "h100:8"])
def test_what_the_compiler_says_of_a_topology_is_passed_on(monkeypatch, text):
    def refuse(*args, **kwargs):
        raise ValueError("not divisible by 2x2x1")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(target.topologies, "get_topology_desc", refuse)
    with pytest.raises(UserError, match="not divisible by 2x2x1") as error:
        target.devices(hardware.parse(text))
    assert "pip install" not in str(error.value)

"""Checkpoints written and read a few parameters at a time."""

import errno

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest

from unijax.core import tree
from unijax.core.errors import UserError
from unijax.train import checkpoint, streaming
from unijax.train.schema import SCHEMA
from unijax.train.streaming import LazyArray, StoredParams, in_groups, write_params


@pytest.fixture
def written(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "a/kernel": rng.normal(size=(3, 4)).astype(np.float32),
        "a/bias": rng.normal(size=5).astype(ml_dtypes.bfloat16),
        "b": np.float32(2.5).reshape(()),
    }
    lazy = {p: LazyArray(x.shape, x.dtype, lambda x=x: x) for p, x in arrays.items()}
    write_params(tmp_path, lazy, {"stage": "import", "config": {"system": "s"}})
    return tmp_path, arrays


def test_training_reads_what_was_written(written):
    directory, arrays = written
    params = tree.flatten(checkpoint.read_params(directory))
    assert params.keys() == arrays.keys()
    for path, x in arrays.items():
        assert params[path].dtype == x.dtype
        np.testing.assert_array_equal(params[path], x)
    like = {"a": {"kernel": jnp.zeros((3, 4)), "bias": jnp.zeros(5)}, "b": jnp.zeros(())}
    cast = checkpoint.read_params(directory, like)
    assert cast["a"]["bias"].dtype == jnp.float32
    assert checkpoint.read_run(directory) == {
        "schema": SCHEMA, "data": {}, "step": 0, "stage": "import",
        "config": {"system": "s"},
    }  # fmt: skip


def test_parameters_are_read_as_asked_the_average_first(written):
    directory, arrays = written
    stored = StoredParams(directory)
    assert {p: (a.shape, a.dtype) for p, a in stored.arrays.items()} == {
        p: (x.shape, x.dtype) for p, x in arrays.items()
    }
    (only,) = stored.read(["a/bias"]).items()
    assert only[0] == "a/bias"
    np.testing.assert_array_equal(only[1], arrays["a/bias"])
    average = {"a": {"kernel": jnp.ones((3, 4))}}  # as training writes it
    with ocp.StandardCheckpointer() as writer:
        writer.save(directory / "checkpoints" / "0" / "ema", average)
    both = StoredParams(directory).read(["a/kernel", "b"])
    np.testing.assert_array_equal(both["a/kernel"], average["a"]["kernel"])
    np.testing.assert_array_equal(both["b"], arrays["b"])


def test_a_place_without_checkpoints_is_named(tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        StoredParams(tmp_path)


def test_groups_hold_the_budget_or_one(monkeypatch):
    monkeypatch.setattr(streaming, "GROUP_BYTES", 10)
    sizes = [3, 3, 3, 3, 25, 1, 9, 1]
    groups = in_groups(range(8), sizes.__getitem__)
    assert groups == [[0, 1, 2], [3], [4], [5, 6], [7]]


def test_a_disk_that_fills_up_is_an_oserror():
    def full():
        raise ValueError("RESOURCE_EXHAUSTED: ...: No space left on device [os_error_code='28']")

    def other():
        raise ValueError("something else")

    assert streaming._failure(full).errno == errno.ENOSPC
    assert isinstance(streaming._failure(other), ValueError)
    assert streaming._failure(lambda: None) is None

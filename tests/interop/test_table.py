"""The reversible table: layouts, coverage, laziness."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unijax.core.errors import UserError
from unijax.interop.table import (
    CONV,
    LEADING_ONE,
    LINEAR,
    PATCHES,
    SAME,
    Entry,
    Table,
    TensorInfo,
    check_coverage,
    foreign_shapes,
    foreign_tensors,
    read_leaf,
)

TABLE = Table(
    (
        Entry(("a/kernel",), "a.weight", LINEAR),
        Entry(("stack/q", "stack/k", "stack/v"), "blocks.{i}.qkv", LINEAR),
        Entry(("position",), "pos", LEADING_ONE),
    ),
    dropped=(r"pool\..*",),
)
SHAPES = {"a/kernel": (3, 2), "position": (5, 4)} | {f"stack/{n}": (2, 4, 3) for n in "qkv"}


class Memory:
    """A source that counts what is read of it."""

    where = "memory"

    def __init__(self, arrays):
        self.arrays = arrays
        self.tensors = {n: TensorInfo(a.shape, a.dtype) for n, a in arrays.items()}
        self.reads = []

    def read(self, name):
        self.reads.append(name)
        return self.arrays[name]


def foreign(rng):
    shapes = foreign_shapes(TABLE, SHAPES)
    return {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3))
def test_transforms_are_inverses(a, b, h, w):
    rng = np.random.default_rng(a)
    for transform, shape in (
        (SAME, (a, b)),
        (LINEAR, (a, b)),
        (CONV, (a, b, h, w)),
        (PATCHES, (a, 3, h, h)),
        (LEADING_ONE, (1, a, b)),
    ):
        x = rng.normal(size=shape)
        ours = transform.to_ours(x)
        np.testing.assert_array_equal(transform.to_theirs(ours), x)
        np.testing.assert_array_equal(transform.to_ours(transform.to_theirs(ours)), ours)


def test_linear_and_patches_mean_what_torch_means(rng):
    x = rng.normal(size=(2, 6)).astype(np.float32)
    weight = rng.normal(size=(4, 6)).astype(np.float32)
    theirs = torch.nn.functional.linear(torch.from_numpy(x), torch.from_numpy(weight))
    np.testing.assert_allclose(x @ LINEAR.to_ours(weight), theirs, rtol=1e-5)
    patch = rng.normal(size=(5, 5, 3)).astype(np.float32)
    kernel = rng.normal(size=(7, 3, 5, 5)).astype(np.float32)
    picture = torch.from_numpy(patch.transpose(2, 0, 1)[None].copy())
    theirs = torch.nn.functional.conv2d(picture, torch.from_numpy(kernel)).flatten()
    np.testing.assert_allclose(patch.reshape(-1) @ PATCHES.to_ours(kernel), theirs, atol=1e-4)


def test_there_and_back_again_is_equal_to_the_bit(rng):
    arrays = foreign(rng)
    assert set(arrays) == {"a.weight", "pos", "blocks.0.qkv", "blocks.1.qkv"}
    source = Memory(arrays | {"pool.x": np.zeros(3)})
    check_coverage(TABLE, SHAPES, source, "")
    ours = {p: read_leaf(TABLE, source, p, s) for p, s in SHAPES.items()}
    assert {p: x.shape for p, x in ours.items()} == SHAPES
    back = {n: x for e in TABLE.entries for n, x in foreign_tensors(e, [ours[p] for p in e.ours])}
    assert back.keys() == arrays.keys()
    for name, x in back.items():
        np.testing.assert_array_equal(x, arrays[name])
    np.testing.assert_array_equal(ours["stack/k"][1], arrays["blocks.1.qkv"][3:6].T)


def test_a_parameter_reads_only_its_own_tensors(rng):
    source = Memory(foreign(rng))
    read_leaf(TABLE, source, "stack/v", SHAPES["stack/v"])
    assert source.reads == ["blocks.0.qkv", "blocks.1.qkv"]


def message(change, rng):
    arrays = foreign(rng)
    change(arrays)
    with pytest.raises(UserError) as error:
        check_coverage(TABLE, SHAPES, Memory(arrays), "Do this.")
    return str(error.value)


def test_what_is_missing_unexpected_or_misshapen_is_listed(rng):
    assert "1 tensors missing (blocks.1.qkv)" in message(lambda a: a.pop("blocks.1.qkv"), rng)
    assert "1 tensors that have no place (blocks.2.qkv)" in message(
        lambda a: a.update({"blocks.2.qkv": a["blocks.0.qkv"]}), rng
    )
    text = message(lambda a: a.update({"a.weight": np.zeros((3, 2)), "b": np.zeros(1)}), rng)
    assert "a.weight [3, 2] instead of [2, 3]" in text
    assert "(b)" in text
    assert text.endswith("Do this.")
    many = message(lambda a: a.update({f"x{i:02}": np.zeros(1) for i in range(30)}), rng)
    assert "30 tensors that have no place (x00, x01" in many
    assert "and 10 more" in many


def test_a_stack_of_several_dtypes_is_refused(rng):
    arrays = foreign(rng)
    arrays["blocks.1.qkv"] = arrays["blocks.1.qkv"].astype(np.float16)
    with pytest.raises(UserError, match=r"blocks.1.qkv in float16; expected float32"):
        read_leaf(TABLE, Memory(arrays), "stack/q", SHAPES["stack/q"])


def test_a_table_that_uses_a_tensor_twice_cannot_be_made():
    with pytest.raises(AssertionError):
        Table((Entry(("a",), "x"), Entry(("b",), "x")))
    with pytest.raises(AssertionError):
        Table((Entry(("a",), "x"), Entry(("a",), "y")))

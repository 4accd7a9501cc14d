"""Meshes and tables: sizes, order of devices, who reads which rows, and where parameters lie."""

import dataclasses
import math

import flax.linen as nn
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh, PartitionSpec

from unijax.core import axes
from unijax.core.errors import UserError
from unijax.core.mesh import AXES, PARTS, TENSOR, that_divide
from unijax.parallel import sharding
from unijax.parallel.sharding import (
    TABLES,
    MeshConfig,
    make_mesh,
    mesh_shape,
    param_shardings,
    reader,
)

FULL = "fsdp_tensor_sequence"


@given(st.sampled_from(AXES), st.tuples(*[st.integers(1, 4)] * 4))
def test_the_free_size_is_what_is_left(free, sizes):
    sizes = dict(zip(AXES, sizes))
    config = MeshConfig(**(sizes | {free: -1}), table=FULL)
    assert mesh_shape(config, math.prod(sizes.values())) == sizes


@pytest.mark.parametrize(
    ("config", "devices"),
    [
        (MeshConfig(data=3), 8),
        (MeshConfig(data=-1, fsdp=3), 8),
        (MeshConfig(data=-1, fsdp=-1), 8),
        (MeshConfig(data=0), 8),
        (MeshConfig(data=-2, fsdp=-4), 8),
        (MeshConfig(data=-1, tensor=16, table=FULL), 8),
    ],
)
def test_sizes_that_do_not_fit_are_told(config, devices):
    with pytest.raises(UserError, match=f"on {devices} devices"):
        mesh_shape(config, devices)


@pytest.mark.parametrize(("table", "axis"), [("fsdp", "tensor"), ("data", "sequence")])
def test_an_axis_that_the_table_does_not_use_is_an_error(table, axis):
    with pytest.raises(UserError, match=f"mesh.{axis}"):
        MeshConfig(**{axis: 2}, table=table)


def test_every_table_covers_every_logical_name():
    for table in TABLES.values():
        assert table.keys() == axes.ALL


@given(st.integers(1, 64), st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_a_dim_is_split_evenly_over_the_most_axes(size, counts):
    names = AXES[: len(counts)]
    found = that_divide(names, size, dict(zip(names, counts)))
    product = lambda n: math.prod(counts[:n])  # noqa: E731
    assert found == names[: len(found)]
    assert size % product(len(found)) == 0
    assert all(size % product(n) for n in range(len(found) + 1, len(counts) + 1))


# Devices


@dataclasses.dataclass(frozen=True)
class Chip:
    """What `make_mesh` asks of a device."""

    id: int
    process_index: int
    slice_index: int = 0
    coords: tuple = (0, 0, 0)
    platform: str = "gpu"
    device_kind: str = "some"
    core_on_chip: int = 0


def slices(count: int) -> list[Chip]:
    """TPU v5e slices of 4x4, four chips a host."""
    return [
        Chip(s * 16 + 4 * y + x, s * 4 + 2 * (y // 2) + x // 2, s, (x, y, 0), "tpu", "TPU v5 lite")
        for s in range(count)
        for y in range(4)
        for x in range(4)
    ]


def test_slices_differ_in_data_alone():
    mesh = make_mesh(MeshConfig(data=-1, fsdp=4, tensor=2, table="fsdp_tensor"), slices(3))
    assert mesh.devices.shape == (6, 4, 1, 2)
    slice_of = np.vectorize(lambda chip: chip.slice_index)(mesh.devices)
    for i, block in enumerate(np.split(slice_of, 3)):
        assert (block == block.flat[0]).all()
        assert block.flat[0] == i


def test_parameters_split_over_slices_are_an_error():
    with pytest.raises(UserError, match="1 on 2 slices"):
        make_mesh(MeshConfig(data=1, fsdp=-1, table="fsdp"), slices(2))


def test_inner_axes_stay_on_a_host():
    chips = [Chip(i, i // 8) for i in range(32)]
    mesh = make_mesh(MeshConfig(fsdp=2, sequence=2, tensor=2, table=FULL), chips[::-1])
    hosts = np.vectorize(lambda chip: chip.process_index)(mesh.devices)
    assert (hosts == np.arange(4).reshape(4, 1, 1, 1)).all()


@pytest.mark.parametrize(
    ("tensor", "sequence", "expected"),
    [(1, 1, [(0, 4), (1, 4), (2, 4), (3, 4)]), (4, 1, [(0, 4), (1, 4), (2, 4), (3, 4)]),
     (4, 2, [(0, 2), (0, 2), (1, 2), (1, 2)]), (8, 2, [(0, 1)] * 4)],
)  # fmt: skip
def test_processes_that_hold_the_same_rows_read_the_same(tensor, sequence, expected):
    chips = [Chip(i, i // 4) for i in range(16)]
    mesh = make_mesh(MeshConfig(sequence=sequence, tensor=tensor, table=FULL), chips)
    assert [reader(mesh, process) for process in range(4)] == expected


def test_rows_that_lie_across_processes_are_an_error():
    chips = [Chip(i, i // 4) for i in range(12)]
    with pytest.raises(UserError, match="over 3 processes"):
        reader(make_mesh(MeshConfig(tensor=3, table="fsdp_tensor"), chips), 0)


def test_shares_of_processes_are_what_their_devices_hold():
    """With devices in the order of a TPU's links, too."""
    for chips in (slices(1), slices(2)):
        mesh = make_mesh(MeshConfig(fsdp=-1, data=len(chips) // 16, table="fsdp"), chips)
        count = len(chips) // 4
        assert [reader(mesh, p)[1] for p in range(count)] == [count] * count
        assert {reader(mesh, p)[0] for p in range(count)} == set(range(count))


# Parameters


def box(*names: str) -> nn.LogicallyPartitioned:
    return nn.LogicallyPartitioned(jax.ShapeDtypeStruct((8,) * len(names), np.float32), names)


@pytest.mark.parametrize("table", TABLES)
def test_a_name_without_a_row_is_an_error_that_says_where(table):
    """It would be whole on every device, in silence."""
    mesh = AbstractMesh((1, 4, 1, 1), AXES)
    boxed = {"layer": {"kernel": box(axes.EMBED, "ink")}}
    with pytest.raises(UserError, match="layer/kernel: found the axis name 'ink'; expected one "):
        param_shardings(boxed, mesh, table)
    with pytest.raises(UserError, match="the recipe's own axis 'ink': found the axis name 'inc'"):
        param_shardings(boxed, mesh, table, {"ink": "inc"})


def test_a_recipes_own_name_lies_like_the_one_it_names():
    mesh = AbstractMesh((1, 2, 1, 2), AXES)
    boxed = {"own": box("ink", "paper"), "known": box(axes.EMBED, axes.MLP)}
    own = {"ink": axes.EMBED, "paper": axes.MLP}
    for table in TABLES:
        found = param_shardings(boxed, mesh, table, own)
        assert found["own"].spec == found["known"].spec
    assert found["own"].spec == PartitionSpec(PARTS, TENSOR)  # not whole by the last


def test_a_name_is_in_the_closed_set_and_of_one_kind():
    names = {value for name, value in vars(axes).items() if name.isupper() and name != "ALL"}
    assert names == axes.ALL
    kinds = (sharding._RESIDUAL, sharding._WIDE, sharding._KEPT)
    assert sorted(name for kind in kinds for name in kind) == sorted(axes.ALL)


def test_an_axis_that_does_not_divide_leaves_a_dim_whole():
    mesh = AbstractMesh((1, 4, 1, 1), AXES)
    shape = jax.ShapeDtypeStruct((6, 8), np.float32)
    boxed = {"x": nn.LogicallyPartitioned(shape, (axes.EMBED, axes.MLP))}
    assert param_shardings(boxed, mesh, "fsdp")["x"].is_fully_replicated

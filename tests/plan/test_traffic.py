"""Bytes that a step reads and writes."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P

from unijax.core.mesh import AXES
from unijax.plan.traffic import passes, traffic, whole_width
from unijax.plan.work import Work
from unijax.train.state import TrainState

MESH = AbstractMesh((1, 4, 2, 2), AXES)


def array(*spec, dtype=jnp.float32):
    return jax.ShapeDtypeStruct((16, 8), dtype, sharding=NamedSharding(MESH, P(*spec)))


def work(**fields) -> Work:
    return Work(amount=1.0, unit="token", parts={}, **({"lookups": {}} | fields))


def test_parts_of_a_width_are_gathered_and_parts_of_hidden_dims_are_not():
    assert whole_width(array(("fsdp", "sequence"), "tensor")) == 16 * 4
    assert whole_width(array(None, "fsdp")) == whole_width(array()) == 16 * 8


def test_a_step_reads_parameters_by_its_passes_and_tables_by_their_rows():
    table, layer, tower = array(None, "fsdp"), array("fsdp"), array(dtype=jnp.bfloat16)
    params = {"embed": {"embedding": table}, "stack": {"layers": {"kernel": layer}}}
    state = TrainState(
        step=(), params=params, frozen={"tower": {"kernel": tower}, "unused": {"kernel": tower}},
        opt_state={"mu": params, "nu": params},
    )  # fmt: skip
    found = work(lookups={"embed/embedding": 160.0}, forward_only=("tower",), idle=("unused",))
    rows = 160 / 16 * 8 * 4  # of a device, in float32
    layers, once = 16 * 8 * 2, 16 * 8 * 2  # bfloat16
    shard = 2 * (16 * 8 // 4) * 4  # of both trained arrays: a quarter each
    update = 2 * 3 * shard
    for accumulate in (1, 4):
        for remat, times in (("none", 2), ("dots", 2), ("full", 3)):
            reads = rows + accumulate * (times * layers + once)
            want = reads + update + 2 * accumulate * shard
            assert traffic(state, found, remat, accumulate, 2) == pytest.approx(want)


def test_a_larger_table_costs_its_update_and_nothing_else():
    """A step gathers rows of it; the optimizer goes over the whole."""
    sizes = []
    for rows in (16, 1600):
        table = jax.ShapeDtypeStruct((rows, 8), jnp.float32, sharding=NamedSharding(MESH, P()))
        params = {"embed": {"embedding": table}}
        state = TrainState(step=(), params=params, frozen={}, opt_state={"mu": params})
        sizes.append(traffic(state, work(lookups={"embed/embedding": 32.0}), "full", 1, 2))
    more = (1600 - 16) * 8 * 4
    assert sizes[1] - sizes[0] == 2 * 2 * more + 2 * more


def test_passes():
    found = work(forward_only=("vqmodel",), idle=("vqmodel/decoder",))
    assert passes("vqmodel/decoder/conv_in/kernel", found, "full") == 0
    assert passes("vqmodel/encoder/conv_in/kernel", found, "full") == 1
    assert passes("language_model/layers/mlp/up_proj/kernel", found, "full") == 3
    assert passes("language_model/layers/mlp/up_proj/kernel", found, "dots") == 2
    assert passes("language_model/lm_head/kernel", found, "full") == 2
    assert passes("vqmodel_of_another/kernel", found, "none") == 2

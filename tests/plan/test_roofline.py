"""Bytes of a device, and the time that a step takes at least."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train.toy import Toy, ToyBatches, toy_stage
from unijax.parallel.sharding import MeshConfig, make_mesh
from unijax.plan.collectives import Collective
from unijax.plan.compiled import compile_once, digest_of
from unijax.plan.hardware import parse
from unijax.plan.memory import account, on_device
from unijax.plan.roofline import roofline
from unijax.train import setup

ONE = parse("v5p:1x1x1")  # its name alone is used: the programs here are compiled for the CPU


def toy_step():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    trainer = setup.build(Toy(), toy_stage(ema_decay=0.9), mesh, "data", jnp.float32, seed=3)
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=trainer.batch_sharding),
        next(ToyBatches()),
    )
    return trainer, batch, trainer.train_step.lower(trainer.abstract_state, batch)


def test_arguments_are_what_the_compiler_takes():
    trainer, batch, lowered = toy_step()
    compiled = compile_once(lowered, ONE, "", None)
    memory = account(trainer.abstract_state, batch, 1e9, compiled)
    arguments = memory.parameters + memory.optimizer + memory.batch
    assert arguments == compiled.arguments
    live = jax.tree.leaves(trainer.begin(trainer.init(0)))
    assert memory.parameters + memory.optimizer == sum(x.nbytes for x in live)
    assert memory.gradients == on_device(trainer.abstract_state.params)
    assert memory.total >= arguments + compiled.temporaries
    assert memory.fits
    assert not dataclasses.replace(memory, capacity=memory.total - 1.0).fits


def test_what_was_compiled_is_not_compiled_again(tmp_path):
    *_, lowered = toy_step()
    digest = digest_of(lowered.as_text(), ONE)
    first = compile_once(lowered, ONE, digest, tmp_path)
    assert compile_once(None, ONE, digest, tmp_path) == first
    assert digest != digest_of(lowered.as_text(), parse("v5p:2x2x1"))
    assert digest != digest_of(lowered.as_text() + " ", ONE)


@dataclasses.dataclass(frozen=True)
class Chip:
    process_index: int


def test_the_longest_resource_is_the_bottleneck():
    hosts = parse("h100:8*2")
    chip = hosts.chip
    devices = np.array([Chip(i // 8) for i in range(16)])
    moved = 3.0 * 2**32
    inside = Collective("all-gather", ("tensor",), tuple(range(8)), 8 * 10**9, 3, "bf16")
    across = Collective("all-reduce", ("data",), (0, 8), 10**9, 1, "f32")
    line = roofline(hosts, devices, [inside, across], moved, 1e15, 3e15)
    assert line.compute == pytest.approx(3e15 / 16 / chip.flops)
    assert line.memory == pytest.approx(moved / chip.memory_bandwidth)
    assert line.collectives["tensor"] == pytest.approx(3 * 7e9 / chip.link)
    assert line.collectives["data"] == pytest.approx(1e9 / chip.network)
    assert line.bottleneck == "compute"
    assert line.seconds == line.compute
    assert line.mfu == pytest.approx(1 / 3)
    parts = line.compute + line.memory + sum(line.collectives.values())
    assert line.seconds_in_turn == pytest.approx(parts)
    more = roofline(hosts, devices, [inside] * 9 + [across], moved, 1e15, 3e15)
    assert more.bottleneck == "collectives over tensor"
    assert math.isclose(more.mfu, 1e15 / 16 / chip.flops / more.seconds)

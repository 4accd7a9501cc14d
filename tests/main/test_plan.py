"""`unijax plan`: shipped configs trace whole, changes are configs, and what is printed says all."""

import dataclasses
import json

import jax
import pytest
from jax.sharding import AbstractMesh

from unijax.core.errors import UserError
from unijax.core.mesh import AXES
from unijax.main import config as config_lib
from unijax.main import plan, plan_show
from unijax.main.run import RunConfig, make_system, resolve
from unijax.main.train import check_rows
from unijax.parallel.sharding import MeshConfig, make_mesh, mesh_shape
from unijax.plan.collectives import Collective
from unijax.plan.memory import Memory
from unijax.plan.roofline import Roofline
from unijax.plan.work import Part
from unijax.train import setup

FULL_SIZE = [
    *(f"configs/janus_pro.py:{size},stage{n}" for size in ("1b", "7b") for n in (1, 2, 3)),
    *(f"configs/janus.py:stage{n}" for n in (1, 2, 3)),
    "configs/finetune.py",
]


def mesh_of(run: RunConfig, devices: int) -> AbstractMesh:
    return AbstractMesh(tuple(mesh_shape(run.mesh, devices).values()), AXES)


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_configs_name_hardware_over_which_their_rows_divide(name):
    run = resolve(config_lib.load(name))
    topology = plan.topology_of(run, None)
    check_rows(run, mesh_of(run, topology.size))


def test_the_step_of_the_largest_config_traces():
    """Counts of published sizes, such as FLOPs, do not fit into 32 bits: small ones do not show."""
    run = resolve(config_lib.load("configs/janus_pro.py:7b,stage3"))
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    system = make_system(run)
    trainer = setup.build(system, run.stage, mesh, "data", system.dtype, 0)
    batch = plan.abstract_batch(run, trainer.batch_sharding)
    assert batch.tokens.shape == (128, 4096)
    assert batch.images["und"].pixels.shape == (128, 3, 384, 384, 3)
    state, metrics = jax.eval_shape(trainer.train_step, trainer.abstract_state, batch)
    same = jax.tree.map(lambda a, b: a.shape == b.shape, state, trainer.abstract_state)
    assert all(jax.tree.leaves(same))
    assert "flops" in metrics


def a_plan(fits: bool) -> plan.Plan:
    gib = 2**30
    return plan.Plan(
        topology="v5p:2x2x1", mesh="mesh: fsdp 4", change={} if not fits else {"remat": "full"},
        digest="0123", fits=fits, refusal="" if fits else "Used 99G of 95G hbm",
        memory=Memory(2 * gib, 4 * gib, gib, gib, 3 * gib, 0, 95.0 * gib),
        amount=1000.0, unit="token", parts={"decoder": Part(1e6, 3e6, 4e6)},
        roofline=Roofline(0.5, 0.1, {"fsdp": 0.2}, 4e14, 2e15) if fits else None,
        compile_seconds=1.0,
        collectives=(Collective("all-gather", ("fsdp",), (0, 1, 2, 3), 100, 24, "bf16"),),
    )  # fmt: skip


def test_what_is_printed_and_written_says_all(tmp_path):
    asked, found = a_plan(False), a_plan(True)
    text = plan_show.show("config", found, asked)
    for part in ("fits: no (Used 99G of 95G hbm)", "nearest that fits: remat=full", "4.00 GiB",
                 "MFU at most 40.0%", "bottleneck: compute", "decoder"):  # fmt: skip
        assert part in text, text
    too_large = dataclasses.replace(
        asked, refusal="", memory=Memory(60, 30, 5, 0, 2**34, 0, 2.0**33)
    )
    assert "fits: no (16.0 GiB of 8.0 GiB)" in plan_show.show("config", found, too_large)
    plan_show.write_json(tmp_path / "plan.json", asked, found)
    written = json.loads((tmp_path / "plan.json").read_text())
    assert written["plan"]["fits"] is False
    assert written["nearest"]["change"] == {"remat": "full"}
    assert written["nearest"]["roofline"]["seconds"] == 0.5
    assert written["nearest"]["memory"]["total"] == 10 * 2**30
    (one,) = written["nearest"]["collectives"]
    assert (one["kind"], one["axes"], one["members"], one["times"]) == (
        "all-gather",
        ["fsdp"],
        4,
        24,
    )


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("configs/vq_demo.py", {"VQ encoder", "VQ decoder"}),
        ("configs/siglip_demo.py", {"vision", "text", "projections", "similarity"}),
    ],
)
def test_recipes_of_single_pictures_are_counted_by_image(name, parts):
    run = resolve(config_lib.load(name))
    system, mesh = make_system(run), make_mesh(MeshConfig(), jax.devices()[:1])
    work = plan.step_work(run, setup.build(system, run.stage, mesh, "data", system.dtype, 0))
    assert (work.amount, work.unit, set(work.parts)) == (run.data.batch, "image", parts)
    asked = dataclasses.replace(a_plan(True), amount=work.amount, unit="image", parts=work.parts)
    text = plan_show.show("config", asked, asked)
    assert f"FLOPs per image ({run.data.batch} images a step)" in text
    assert " images/s" in text


def test_without_a_topology_the_error_says_what_to_do():
    run = resolve(config_lib.load("configs/janus_demo.py"))
    with pytest.raises(UserError, match="Add for example --topology"):
        plan.topology_of(run, None)

"""What is tried where a step does not fit: with a compiler that knows what fits at once."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.long import long
from tests.main.test_plan import FULL_SIZE, a_plan, mesh_of
from unijax.main import config as config_lib
from unijax.main import plan_search
from unijax.main.plan import topology_of
from unijax.main.plan_search import changed, changes, nearest
from unijax.main.run import RunConfig, resolve
from unijax.main.train import check_rows
from unijax.parallel.sharding import mesh_shape
from unijax.plan.hardware import parse

# 64 GPUs: 8 replicas of 8 parts, 4 rows a device.
RUN = resolve(config_lib.load("configs/janus_pro.py:1b,stage3"), ["remat=none"])
TOPOLOGY = topology_of(RUN, None)


class Compiler:
    """Takes a run where `fits` says so, and refuses before compiling where `holds` does not."""

    def __init__(self, monkeypatch, fits, holds=lambda run: True):
        self.tried = []
        self._fits, self._holds = fits, holds
        monkeypatch.setattr(plan_search, "plan", self._plan)
        monkeypatch.setattr(plan_search, "arguments", self._arguments)

    def _plan(self, run, topology, change, cache):
        self.tried.append(change)
        return dataclasses.replace(a_plan(self._fits(run)), change=change)

    def _arguments(self, run, topology):
        return 0 if self._holds(run) else int(topology.chip.memory) + 1


def search(run: RunConfig = RUN, tries: int = 100) -> dict:
    """The change that is found; empty for none."""
    return nearest(run, TOPOLOGY, a_plan(False), None, tries).change


@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        *((name, ()) for name in FULL_SIZE),
        (FULL_SIZE[0], ("mesh.tensor=2", "mesh.table=fsdp_tensor")),
        (FULL_SIZE[0], ("mesh.fsdp=4", "mesh.sequence=2", "mesh.table=fsdp_tensor_sequence")),
        (FULL_SIZE[0], ("mesh.data=1", "mesh.tensor=-1", "mesh.table=fsdp_tensor")),
    ],
)
def test_changes_that_are_tried_are_configs_nearest_first(name, mesh):
    run = resolve(config_lib.load(name), mesh)
    topology = topology_of(run, None)
    by_levers = list(changes(run, topology))
    seen = [tuple(sorted(change.items())) for same in by_levers for change in same]
    assert len(set(seen)) == len(seen) > 0
    for same in by_levers:
        for change in same:
            other = changed(run, change)
            assert other != run
            check_rows(other, mesh_of(other, topology.size))
    smaller = ["data.rows" in same[0] for same in by_levers]
    assert smaller == sorted(smaller)  # a smaller batch is the last resort


def test_slices_keep_replicas_of_their_own():
    """Between slices of TPUs gradients alone are summed."""
    topology = parse("v5e:4x4*4")
    tried = [c for same in changes(RUN, topology) for c in same]
    for change in tried:
        sizes = mesh_shape(changed(RUN, change).mesh, topology.size)
        assert sizes["data"] % 4 == 0, change
    assert any("mesh.fsdp" in change for change in tried)


@pytest.mark.parametrize("name", ["configs/vq_demo.py", "configs/siglip_demo.py"])
def test_recipes_are_not_asked_for_what_they_refuse(name):
    run = resolve(config_lib.load(name), ["mesh.data=8", "mesh.table=fsdp"])
    tried = [c for same in changes(run, parse("h100:8")) for c in same]
    refused = "remat" if run.system == "tokenizer" else "accumulate"
    assert tried
    assert not any(refused in change for change in tried)


def test_one_lever_is_pulled_as_little_as_is_needed(monkeypatch):
    Compiler(monkeypatch, lambda run: run.accumulate >= 2)
    assert search() == {"accumulate": 2}
    Compiler(monkeypatch, lambda run: run.remat != "none")
    assert search() == {"remat": "dots"}
    Compiler(monkeypatch, lambda run: run.mesh.fsdp >= 32)
    assert search() == {"mesh.data": 2, "mesh.fsdp": 32}
    Compiler(monkeypatch, lambda run: run.data.rows <= RUN.data.rows // 2)
    assert search() == {"data.rows": RUN.data.rows // 2}


def test_two_levers_are_pulled_where_one_does_not_suffice(monkeypatch):
    rows = RUN.data.rows
    Compiler(monkeypatch, lambda run: run.remat == "full" and run.accumulate >= 2)
    assert search() == {"remat": "full", "accumulate": 2}
    Compiler(monkeypatch, lambda run: run.mesh.fsdp >= 64 and run.data.rows <= rows // 2)
    assert search() == {"mesh.data": 1, "mesh.fsdp": 64, "data.rows": rows // 2}
    Compiler(monkeypatch, lambda run: run.mesh.tensor > 1 and run.remat == "full")
    assert search() | {"mesh.fsdp": 0} == {
        "remat": "full", "mesh.data": 1, "mesh.fsdp": 0, "mesh.tensor": 2,
        "mesh.table": "fsdp_tensor",
    }  # fmt: skip


def test_what_cannot_hold_its_parameters_is_not_compiled(monkeypatch):
    compiler = Compiler(
        monkeypatch, lambda run: run.mesh.fsdp == 64, lambda run: run.mesh.fsdp >= 32
    )
    assert search() == {"mesh.data": 1, "mesh.fsdp": 64}
    assert all(changed(RUN, change).mesh.fsdp >= 32 for change in compiler.tried)


@long
@settings(deadline=None, max_examples=12)
@given(
    tries=st.integers(0, 9),
    accumulate=st.sampled_from([1, 2, 4]),
    fsdp=st.sampled_from([8, 32, 64, 128]),
)
def test_compilations_are_bounded_and_what_is_found_fits(tries, accumulate, fsdp):
    with pytest.MonkeyPatch.context() as patch:
        fits = lambda run: run.accumulate >= accumulate and run.mesh.fsdp >= fsdp  # noqa: E731
        compiler = Compiler(patch, fits)
        found = search(tries=tries)
        assert len(compiler.tried) <= tries
        assert found == {} or fits(changed(RUN, found))
        possible = [same for same in changes(RUN, TOPOLOGY) if fits(changed(RUN, same[-1]))]
        if tries == 9 and possible and len(possible[0][0]) == 1:
            assert found in possible[0]

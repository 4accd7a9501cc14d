"""What a compiled program sends, read from its text: TPU's and XLA's own, and what they mean."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unijax.plan.collectives import KINDS, Collective, collectives, on_mesh

MESH = {"data": 2, "fsdp": 4, "sequence": 1, "tensor": 2}

# Lines of programs that libtpu compiled, with what does not matter here left out.
PROGRAM = """\
HloModule jit_step, is_scheduled=true

%add.4 (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%pieces.1 (p: bf16[1,32,64]) -> bf16[1,128,64] {
  %all-gather.26 = bf16[1,128,64]{2,1,0:T(8,128)(2,1)S(1)} all-gather(%p), channel_id=211, replica_groups=[4,4]<=[2,4,2]T(0,2,1), dimensions={1}, use_global_device_ids=true, frontend_attributes={chain_id="14"}
}

%pieces.2 (p: bf16[1,32,64]) -> bf16[1,128,64] {
  %all-gather.28 = bf16[1,128,64]{2,1,0:T(8,128)(2,1)} all-gather(%p), channel_id=211, replica_groups=[4,4]<=[2,4,2]T(0,2,1), dimensions={1}, use_global_device_ids=true, frontend_attributes={chain_id="14"}
}

%all-reduce-scatter.10 (x: f32[256,192], y: f32[96]) -> (f32[64,192], f32[24]) {
  %all-reduce.4 = (f32[256,192]{0,1:T(8,128)}, /*index=1*/f32[96]{0}) all-reduce(%x, %y), channel_id=1, replica_groups={{0,2,4,6},{1,3,5,7},{8,10,12,14},{9,11,13,15}}, use_global_device_ids=true, to_apply=%add.4
}

%turns (state: (s32[], f32[8])) -> pred[] {
  %constant.1 = s32[]{:T(128)} constant(24)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%i, %constant.1), direction=LT
}

%layer (state: (s32[], f32[8])) -> (s32[], f32[8]) {
  %f.1 = bf16[1,128,64]{2,1,0} fusion(%p), kind=kCustom, calls=%pieces.1
  %f.2 = bf16[1,128,64]{2,1,0} fusion(%f.1), kind=kCustom, calls=%pieces.2
  %f.3 = (f32[64,192], f32[24]) fusion(%x, %y), kind=kCustom, calls=%all-reduce-scatter.10
  %all-reduce.197 = bf16[12,64,128]{2,1,0:T(8,128)(2,1)S(1)} all-reduce(%h), channel_id=13, replica_groups=[8,2]<=[16], use_global_device_ids=true, to_apply=%add.4
}

%some (state: (s32[], s32[])) -> pred[] {
  ROOT %lt.2 = pred[]{:T(512)} compare(%i, %n), direction=LT
}

%chunk (state: (s32[], s32[])) -> (s32[], s32[]) {
  %pmax.23 = f32[512]{0:T(512)S(1)} all-reduce(%top), channel_id=1, replica_groups={{0,1},{2,3},{4,5},{6,7},{8,9},{10,11},{12,13},{14,15}}, to_apply=%add.4
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %while.1 = (s32[], f32[8]) while(%init), condition=%turns, body=%layer
  %while.2 = (s32[], s32[]) while(%init.2), condition=%some, body=%chunk
  %all-reduce.34 = f32[]{:T(128)} all-reduce(%loss), channel_id=78, replica_groups=mesh['axis_0'=2,'axis_1'=4,'axis_2'=2] {'axis_0','axis_1'}, to_apply=%add.4
  %all-reduce.35 = f32[10]{0} all-reduce(%x), channel_id=79, replica_groups=mesh['axis_0'=2,'axis_1'=8], device_ids=([8,2]T(1,0)) {'axis_0'}, to_apply=%add.4
  %reduce-scatter.2 = f32[48,192]{1,0} reduce-scatter(%g), channel_id=1, replica_groups={{0,8},{1,9},{2,10},{3,11},{4,12},{5,13},{6,14},{7,15}}, dimensions={0}, to_apply=%add.4
  %all-gather-start.1 = (f32[16]{0}, f32[64]{0}) all-gather-start(%w), channel_id=3, replica_groups=[4,4]<=[2,4,2]T(0,2,1), dimensions={0}
  %all-gather-start.2 = ((f32[16]{0}, bf16[8,2]{1,0}), (f32[64]{0}, bf16[32,2]{1,0})) all-gather-start(%w, %v), channel_id=4, replica_groups=[4,4]<=[2,4,2]T(0,2,1), dimensions={0}
  %reduce-scatter-start = ((f32[64]{0}, f32[32]{0}), (f32[16]{0}, f32[8]{0})) reduce-scatter-start(%w, %v), channel_id=6, replica_groups=[4,4]<=[2,4,2]T(0,2,1), dimensions={0}, to_apply=%add.4
  %all-reduce-start = (f32[9]{0}, f32[3]{0}) all-reduce-start(%w, %v), channel_id=7, replica_groups=[8,2]<=[16], to_apply=%add.4
  %collective-permute-start = (bf16[70]{0}, bf16[70]{0}, u32[], u32[]) collective-permute-start(%x), channel_id=5, source_target_pairs={{0,8},{8,0}}
  %all-gather-done.1 = f32[64]{0} all-gather-done(%all-gather-start.1)
  %collective-permute.1 = bf16[100]{0} collective-permute(%x), channel_id=5, source_target_pairs={{0,1},{1,0},{2,3},{3,2}}
  %alone = f32[7]{0} all-reduce(%y), replica_groups=[16,1]<=[16], to_apply=%add.4
}
"""  # noqa: E501


def test_every_collective_is_counted_once_a_turn():
    found = collectives(PROGRAM, MESH, dynamic_trips=7)
    told = sorted((c.kind, c.axes, c.bytes, c.times, c.dtype) for c in found)
    assert told == sorted(
        [
            ("all-gather", ("fsdp",), 128 * 64 * 2, 24, "bf16"),  # in two pieces of one chain
            ("reduce-scatter", ("fsdp",), (256 * 192 + 96) * 4, 24, "f32"),
            ("all-reduce", ("tensor",), 12 * 64 * 128 * 2, 24, "bf16"),
            ("all-reduce", ("tensor",), 512 * 4, 7, "f32"),
            ("all-reduce", ("data", "fsdp"), 4, 1, "f32"),
            ("all-reduce", ("tensor",), 10 * 4, 1, "f32"),
            ("reduce-scatter", ("data",), 2 * 48 * 192 * 4, 1, "f32"),
            ("all-gather", ("fsdp",), 64 * 4, 1, "f32"),
            ("collective-permute", ("tensor",), 100 * 2, 1, "bf16"),
            # Started and done, as on GPUs, several arrays at once.
            ("all-gather", ("fsdp",), 64 * 4 + 64 * 2, 1, "f32"),
            ("reduce-scatter", ("fsdp",), (64 + 32) * 4, 1, "f32"),
            ("all-reduce", ("tensor",), (9 + 3) * 4, 1, "f32"),
            ("collective-permute", ("data",), 70 * 2, 1, "bf16"),
        ]
    )


def test_a_loop_whose_turns_the_compiler_wrote_down():
    text = PROGRAM.replace(
        "condition=%some, body=%chunk",
        'condition=%some, body=%chunk, backend_config={"known_trip_count":{"n":"5"}}',
    )
    (found,) = [c for c in collectives(text, MESH, 7) if c.bytes == 512 * 4]
    assert found.times == 5


@given(st.sampled_from(KINDS), st.integers(2, 16), st.integers(1, 1000), st.integers(1, 9))
def test_bytes_sent_are_those_of_a_ring(kind, n, size, times):
    """Played through: every member passes pieces to its neighbour until all have what they need."""
    piece = size / n
    steps = {
        "all-gather": n - 1, "reduce-scatter": n - 1, "all-to-all": n - 1,
        "all-reduce": 2 * (n - 1), "collective-permute": n,
    }[kind]  # fmt: skip
    one = Collective(kind, ("fsdp",), tuple(range(n)), size, times, "f32")
    assert one.sent == pytest.approx(steps * piece * times)


@given(st.tuples(*[st.integers(1, 4)] * 3), st.integers(0, 2))
def test_groups_of_every_way_to_write_them(sizes, along):
    """A group along one axis of a mesh, numbered as XLA numbers devices."""
    shape = dict(zip("abc", sizes))
    names = [a for a in shape if a != "abc"[along]] + ["abc"[along]]
    dims = ["abc".index(a) for a in names]
    total, width = math.prod(sizes), sizes[along]
    groups = np.arange(total).reshape(sizes).transpose(dims).reshape(-1, width)
    listed = "{" + ",".join("{" + ",".join(map(str, g)) + "}" for g in groups) + "}"
    iota = f"[{total // width},{width}]<=[{','.join(map(str, sizes))}]T({','.join(map(str, dims))})"
    named = (
        "mesh[" + ",".join(f"'{a}'={n}" for a, n in shape.items()) + "] {'" + "abc"[along] + "'}"
    )
    for written in (listed, iota, named):
        text = f"ENTRY %m (p: f32[8]) -> f32[8] {{\n  %a = f32[8]{{0}} all-reduce(%p), replica_groups={written}, to_apply=%s\n}}"  # noqa: E501
        found = collectives(text, shape)
        if width == 1:
            assert found == []
        else:
            assert [c.group for c in found] == [tuple(groups[0])]
            assert found[0].axes == ("abc"[along],)


def test_on_a_larger_mesh_groups_grow_along_their_axes():
    found = collectives(PROGRAM, MESH, 7)
    assert [set(c.group) for c in on_mesh(found, MESH)] == [set(c.group) for c in found]
    larger = MESH | {"fsdp": 32}
    for old, new in zip(found, on_mesh(found, larger), strict=True):
        grown = 8 if "fsdp" in old.axes else 1
        assert len(new.group) == grown * len(old.group)
        assert (new.axes, new.bytes, new.times) == (old.axes, old.bytes, old.times)
        places = np.array(np.unravel_index(new.group, tuple(larger.values())))
        varies = [a for a, along in zip(larger, places) if len(set(along.tolist())) > 1]
        assert tuple(varies) == new.axes

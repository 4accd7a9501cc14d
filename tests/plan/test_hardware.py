"""Topologies as they are written, and the bandwidth that a group of their chips has."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unijax.core.errors import UserError
from unijax.plan.hardware import CHIPS, Topology, bandwidth, parse

sides = st.sampled_from([1, 2, 4, 8, 16])


@st.composite
def topologies(draw):
    key = draw(st.sampled_from(sorted(CHIPS)))
    dims = CHIPS[key].dims
    shape = draw(st.tuples(*[sides] * dims)) if dims else (draw(st.integers(1, 8)),)
    return Topology(key, shape, draw(st.integers(1, 8)))


@given(topologies())
def test_what_is_printed_is_read_back(topology):
    assert parse(str(topology)) == topology
    assert topology.size == math.prod(topology.shape) * topology.count


@pytest.mark.parametrize(
    "text",
    ["", "v5p", "v5p:4x4", "v4:2x2x2", "v5e:4x4x4", "v5e:3x4", "v6e:32x16", "h100:16", "h100:8x2",
     "v5p:4x4x8*0", "h100:0", "v5p:4x4x8 ", "v5p:4x-4x8"],
)  # fmt: skip
def test_others_are_refused_with_an_example(text):
    with pytest.raises(UserError, match="--topology"):
        parse(text)


def line(topology: Topology, dim: int) -> list[tuple[int, ...]]:
    """The chips along a dim of the first slice."""
    dims = topology.chip.dims
    return [(0, *(i if d == dim else 0 for d in range(dims))) for i in range(topology.shape[dim])]


def test_a_ring_of_links_is_used_both_ways_and_a_line_one_way():
    ring, short = parse("v5p:4x4x8"), parse("v5p:2x2x2")
    link = CHIPS["v5p"].link
    assert bandwidth(ring, line(ring, 2)) == 2 * link
    assert bandwidth(short, line(short, 2)) == link
    pod, half = parse("v5e:16x16"), parse("v5e:8x8")
    assert bandwidth(pod, line(pod, 0)) == 2 * CHIPS["v5e"].link
    assert bandwidth(half, line(half, 0)) == CHIPS["v5e"].link
    cube = [(0, x, y, z) for x in range(4) for y in range(4) for z in range(8)]
    assert bandwidth(ring, cube) == 6 * link
    # A part of a ring is a line: the way back is not the group's.
    assert bandwidth(ring, line(ring, 2)[:4]) == link
    assert bandwidth(pod, line(pod, 0)[4:12]) == CHIPS["v5e"].link


def test_between_hosts_the_members_share_their_networks():
    gpus = parse("h100:8*4")
    chip = gpus.chip
    assert bandwidth(gpus, [(0,)] * 8) == chip.link
    assert bandwidth(gpus, [(host,) for host in range(4)]) == chip.network
    assert bandwidth(gpus, [(host,) for host in range(4) for _ in range(8)]) == 8 * chip.network
    slices = parse("v5e:16x16*2")
    assert bandwidth(slices, [(0, 0, 0), (1, 0, 0)]) == slices.chip.network

"""Accelerators that runs are planned for, and how they are joined: published figures only.

Sources: Google Cloud's pages "TPU v5e", "TPU v5p" and "TPU v6e"; NVIDIA's data sheets of A100, H100
and H200 (SXM) and of DGX systems (network). Bandwidths are in one direction.
"""

import dataclasses
import math
import re

from unijax.core import tpu
from unijax.core.errors import UserError
from unijax.core.peak import peak_flops


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator: what JAX calls a device.

    Attributes:
      platform: "tpu" or "cuda".
      memory: bytes that a program may use.
      memory_bandwidth: bytes per second.
      link: bytes per second. TPU: of one link to one neighbour. GPU: of all links to the switch of
        the host.
      network: bytes per second between slices or hosts, for each chip.
      dims: TPU: of the torus; GPU: 0.
      per_host: chips of a host.
    """

    name: str
    platform: str
    memory: float
    memory_bandwidth: float
    link: float
    network: float
    dims: int
    per_host: int

    @property
    def flops(self) -> float:
        """Peak of bfloat16 products, dense, per second."""
        return peak_flops(self.name)


GIB = 2**30
CHIPS = {
    # Memory is what the TPU compiler lets a program use.
    "v5e": Chip("TPU v5e", "tpu", 15.75 * GIB, 819e9, 50e9, 3.125e9, tpu.DIMS["v5e"], 4),
    "v5p": Chip("TPU v5p", "tpu", 95.74 * GIB, 2765e9, 100e9, 6.25e9, tpu.DIMS["v5p"], 4),
    "v6e": Chip("TPU v6e", "tpu", 31.25 * GIB, 1638e9, 100e9, 12.5e9, tpu.DIMS["v6e"], 4),
    # JAX's default share of a GPU's memory is 75%; runs of this size set 92% (docs/plan.md).
    "a100": Chip("A100-SXM4-80GB", "cuda", 0.92 * 85e9, 2039e9, 300e9, 25e9, 0, 8),
    "h100": Chip("H100-SXM5-80GB", "cuda", 0.92 * 85e9, 3352e9, 450e9, 50e9, 0, 8),
    "h200": Chip("H200-SXM5-141GB", "cuda", 0.92 * 150e9, 4800e9, 450e9, 50e9, 0, 8),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips and how they are joined.

    Attributes:
      key: of `CHIPS`.
      shape: TPU: chips along every side of a slice; GPU: (chips of a host,).
      count: slices or hosts.
    """

    key: str
    shape: tuple[int, ...]
    count: int

    @property
    def chip(self) -> Chip:
        return CHIPS[self.key]

    @property
    def size(self) -> int:
        """Devices in all."""
        return math.prod(self.shape) * self.count

    def __str__(self) -> str:
        sides = "x".join(map(str, self.shape))
        return f"{self.key}:{sides}" + f"*{self.count}" * (self.count > 1)


def parse(text: str) -> Topology:
    """`v5p:4x4x8`, `v5e:16x16*2` (two slices), `h100:8*4` (four hosts of eight GPUs).

    Raises:
      UserError: for anything else, or sides that a slice cannot have.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)(?:\*(\d+))?", text)
    if match is None or match[1] not in CHIPS:
        raise UserError(
            "--topology",
            repr(text),
            f"CHIP:SIDES or CHIP:SIDES*COUNT, with CHIP one of {sorted(CHIPS)}",
            "Write for example v5p:4x4x8, v5e:16x16*2 (two slices) or h100:8*4 (four hosts).",
        )
    key, count = match[1], int(match[3] or 1)
    if CHIPS[key].dims:
        _, shape = tpu.parse(f"{key}:{match[2]}", "--topology")
    elif "x" in match[2]:
        raise UserError(
            "--topology",
            repr(text),
            "the number of GPUs of a host after the colon",
            f"Write for example {key}:8*4.",
        )
    else:
        shape = (int(match[2]),)
        most = CHIPS[key].per_host
        if shape[0] > most:
            raise UserError(
                "--topology",
                f"{shape[0]} GPUs in a host",
                f"at most {most}",
                f"Write {key}:{most}*N for N hosts.",
            )
    if min(*shape, count) < 1:
        raise UserError("--topology", repr(text), "1 chip or more", "Correct it.")
    return Topology(key, shape, count)


def wraps(topology: Topology, dim: int) -> bool:
    """Whether the chips of a line along `dim` form a ring: full pods, and cubes of v5p."""
    side = topology.shape[dim]
    return side == 16 if topology.chip.dims == 2 else side % 4 == 0


def bandwidth(topology: Topology, places: list[tuple[int, ...]]) -> float:
    """Bytes per second that each member of a group of chips can pass to the others in a ring.

    A TPU uses, of every dim along which the group extends, the links both ways where it goes all
    round a ring and one way where it does not; a GPU its links to the switch. Where the group spans
    slices or hosts, the members of one share what the network gives them, if that is less.

    Args:
      places: of every member: (slice or host, then TPU: coordinates in the slice).
    """
    chip = topology.chip
    groups = {place[0] for place in places}
    inside = chip.link
    if chip.dims:
        spans = [len({p[1 + dim] for p in places}) for dim in range(chip.dims)]
        round_ = [wraps(topology, dim) and n == topology.shape[dim] for dim, n in enumerate(spans)]
        inside = chip.link * sum(2 if r else 1 for n, r in zip(spans, round_) if n > 1)
    if len(groups) == 1:
        return inside
    outside = chip.network * len(places) / len(groups)
    return min(inside, outside) if inside else outside

"""The least time that a step can take, and what sets it."""

import dataclasses
from typing import Any

import numpy as np

from unijax.plan.collectives import Collective
from unijax.plan.hardware import Topology, bandwidth


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of a step, each as if nothing else took time.

    Attributes:
      compute: executed FLOPs at the chip's peak.
      memory: parameters, optimizer state and gradients read and written, at the memory's bandwidth
        (`traffic`); activations left out.
      collectives: by the mesh axes over which they go, as "fsdp" or "fsdp+sequence".
      true_flops: of the step, on all devices.
      peak_flops: per second, of all devices.
    """

    compute: float
    memory: float
    collectives: dict[str, float]
    true_flops: float
    peak_flops: float

    @property
    def resources(self) -> dict[str, float]:
        """Seconds by resource; links of several axes are shared, so their times add up."""
        return {
            "compute": self.compute,
            "memory": self.memory,
            "collectives": sum(self.collectives.values()),
        }

    @property
    def bottleneck(self) -> str:
        """The resource that takes longest; of collectives, over which axis most."""
        name = max(self.resources, key=self.resources.get)
        if name != "collectives":
            return name
        return f"collectives over {max(self.collectives, key=self.collectives.get)}"

    @property
    def seconds(self) -> float:
        """With all resources at work at once."""
        return max(self.resources.values())

    @property
    def seconds_in_turn(self) -> float:
        """With one resource at work at a time."""
        return sum(self.resources.values())

    @property
    def mfu(self) -> float:
        """True FLOPs, by the peak, in `seconds`: an upper bound."""
        return self.true_flops / self.peak_flops / self.seconds

    @property
    def mfu_in_turn(self) -> float:
        return self.true_flops / self.peak_flops / self.seconds_in_turn


def place(topology: Topology, device: Any) -> tuple[int, ...]:
    """Of a device: its slice and coordinates there, or its host."""
    if topology.chip.dims:
        return getattr(device, "slice_index", 0) or 0, *device.coords[: topology.chip.dims]
    return (device.process_index,)


def roofline(
    topology: Topology,
    devices: np.ndarray,
    found: list[Collective],
    moved: float,
    true_flops: float,
    executed_flops: float,
) -> Roofline:
    """Of a step.

    Args:
      devices: of the mesh.
      moved: bytes that a device reads and writes.
    """
    chip, flat = topology.chip, devices.reshape(-1)
    seconds: dict[str, float] = {}
    for one in found:
        rate = bandwidth(topology, [place(topology, flat[i]) for i in one.group])
        axes = "+".join(one.axes)
        seconds[axes] = seconds.get(axes, 0.0) + one.sent / rate
    return Roofline(
        compute=executed_flops / topology.size / chip.flops,
        memory=moved / chip.memory_bandwidth,
        collectives=seconds,
        true_flops=true_flops,
        peak_flops=topology.size * chip.flops,
    )

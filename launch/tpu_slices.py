"""TPU slices: what their names mean to Google Cloud.

Kinds of accelerator and chips per machine: cloud.google.com/tpu/docs and
cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus. v5p is sold by TensorCores, two a chip.
"""

import dataclasses
import math

from unijax.core import tpu
from unijax.core.errors import UserError

_CHIPS_PER_HOST = 4


@dataclasses.dataclass(frozen=True)
class _Kind:
    accelerator: str  # prefix of an accelerator type
    cores: int  # that one chip counts for in it
    gke: str  # value of the node label
    sky: str  # prefix in SkyPilot's catalogue


_KINDS = {
    "v5e": _Kind("v5litepod", 1, "tpu-v5-lite-podslice", "tpu-v5litepod"),
    "v5p": _Kind("v5p", 2, "tpu-v5p-slice", "tpu-v5p"),
    "v6e": _Kind("v6e", 1, "tpu-v6e-slice", "tpu-v6e"),
}


@dataclasses.dataclass(frozen=True)
class TpuSlice:
    """A slice of a pod.

    Attributes:
      topology: as "4x4x8".
      hosts: machines.
      chips_per_host: of each machine.
      accelerator: type that `gcloud` takes.
      gke: kind that GKE's nodes are labelled with.
      sky: accelerator that SkyPilot takes.
    """

    topology: str
    hosts: int
    chips_per_host: int
    accelerator: str
    gke: str
    sky: str


def parse(text: str) -> TpuSlice:
    """Of "v5p:4x4x8", the form that `unijax plan` takes, too.

    Raises:
      UserError: for another form, or a topology that no machines make up.
    """
    name, sides = tpu.parse(text, "machines.tpu")
    kind, chips = _KINDS[name], math.prod(sides)
    per_host = min(chips, _CHIPS_PER_HOST)
    if chips % per_host:
        raise UserError(
            "machines.tpu",
            f"{text!r}, {chips} chips",
            f"whole machines of {per_host}",
            "Correct it.",
        )
    count = chips * kind.cores
    return TpuSlice(
        "x".join(map(str, sides)),
        chips // per_host,
        per_host,
        f"{kind.accelerator}-{count}",
        kind.gke,
        f"{kind.sky}-{count}",
    )

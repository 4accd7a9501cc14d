"""Samplers by name."""

import dataclasses
import difflib
from typing import Any

from unijax.core.errors import UserError
from unijax.ops.diffusion.ddim import DDIM
from unijax.ops.diffusion.ddpm import DDPM
from unijax.ops.diffusion.dpm_solver import DPMSolver
from unijax.ops.diffusion.euler import Euler
from unijax.ops.diffusion.heun import Heun
from unijax.ops.diffusion.pndm import PNDM
from unijax.ops.diffusion.sampling import Sampler
from unijax.ops.diffusion.schedule import NoiseSchedule

SAMPLERS = {
    "ddpm": DDPM,
    "ddim": DDIM,
    "pndm": PNDM,
    "dpm_solver": DPMSolver,
    "euler": Euler,
    "heun": Heun,
}


def make_sampler(name: str, schedule: NoiseSchedule, steps: int, **flags: Any) -> Sampler:
    """The sampler of a name, for so many denoising steps.

    Args:
      **flags: fields of its class.

    Raises:
      UserError: an unknown name or flag, with the nearest right one, or flags that cannot be.
    """
    if name not in SAMPLERS:
        raise UserError("sampler", repr(name), f"one of {list(SAMPLERS)}", _advice(name, SAMPLERS))
    cls = SAMPLERS[name]
    known = [f.name for f in dataclasses.fields(cls)][2:]
    for flag in flags:
        if flag not in known:
            raise UserError(
                f"sampler {name!r}", f"unknown flag {flag!r}", f"one of {known}",
                _advice(flag, known),
            )  # fmt: skip
    return cls(schedule, steps, **flags)


def _advice(name: str, known) -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    return f"Did you mean {near[0]!r}?" if near else "Correct the name."

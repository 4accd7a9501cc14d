"""scheduler_config.json of diffusers as a sampler, and back."""

import dataclasses
import pathlib
from typing import Any

from unijax.core.errors import UserError
from unijax.core.json_files import quoted, read_object
from unijax.interop.sections import Section
from unijax.ops.diffusion import SAMPLERS, NoiseSchedule, Sampler, make_sampler
from unijax.ops.diffusion.noising import FLOW

FILE = "scheduler_config.json"
_FLOW_MATCH = {"FlowMatchEulerDiscreteScheduler": "euler", "FlowMatchHeunDiscreteScheduler": "heun"}
_CLASSES = {
    "DDPMScheduler": "ddpm", "DDIMScheduler": "ddim", "PNDMScheduler": "pndm",
    "DPMSolverMultistepScheduler": "dpm_solver", "EulerDiscreteScheduler": "euler",
    "HeunDiscreteScheduler": "heun",
} | _FLOW_MATCH  # fmt: skip
_SCHEDULE = {
    "beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02, "num_train_timesteps": 1000,
    "shift": 1.0, "use_flow_sigmas": False, "flow_shift": 1.0,
}  # fmt: skip
MOST_TIMESTEPS = 100_000
# What their classes take for a key that a file leaves out, where ours takes something else.
_DEFAULTS = {
    "ddpm": {"clip_sample": True},
    "ddim": {"clip_sample": True},
    "heun": {"beta_start": 0.00085, "beta_end": 0.012},
}
# Keys of theirs that are no fields of ours, and what they must say; empty: null.
_FIXED = {
    "trained_betas": (), "thresholding": (False,), "rescale_betas_zero_snr": (False,),
    "use_exponential_sigmas": (False,), "use_beta_sigmas": (False,), "use_lu_lambdas": (False,),
    "interpolation_type": ("linear",), "timestep_type": ("discrete",), "sigma_min": (),
    "sigma_max": (), "variance_type": (), "use_dynamic_shifting": (False,),
    "use_karras_sigmas": (False,), "invert_sigmas": (False,), "shift_terminal": (),
    "stochastic_sampling": (False,),
}  # fmt: skip
# Of what these switch on, or of other schedulers: Stable Diffusion's files carry such along.
_IDLE = (
    "dynamic_thresholding_ratio", "sample_max_value", "time_shift_type", "base_shift", "max_shift",
    "base_image_seq_len", "max_image_seq_len", "clip_sample", "set_alpha_to_one", "skip_prk_steps",
)  # fmt: skip


def read_scheduler(directory: str | pathlib.Path, steps: int) -> Sampler:
    """The sampler of a scheduler's directory, for so many denoising steps.

    Raises:
      UserError: a scheduler, or something in its config, that this project does not have, by name.
    """
    path = pathlib.Path(directory) / FILE
    given = read_object(path)
    cls = given.get("_class_name")
    if not isinstance(cls, str) or cls not in _CLASSES:
        raise UserError(
            f"{path}: _class_name", quoted(cls), f"one of {sorted(_CLASSES)}",
            "Give another scheduler: the same model can be sampled with any that fits its noise.",
        )  # fmt: skip
    name = _CLASSES[cls]
    section = Section(str(path), given, {**_SCHEDULE, **_DEFAULTS.get(name, {})})
    schedule = _schedule(section, cls)
    flags = {}
    for field in dataclasses.fields(SAMPLERS[name])[2:]:
        value = section.get(field.name)
        if value is not None:
            flags[field.name] = _typed(section, field, value)
    section.plain({key: what for key, what in _FIXED.items() if key not in flags})
    known = {*_SCHEDULE, *_FIXED, *_IDLE, *flags}
    section.plain({key: () for key in sorted(given.keys() - known) if key[0] != "_"})
    if schedule.is_flow:
        flags["prediction_type"] = FLOW
    return make_sampler(name, schedule, steps, **flags)


def _schedule(section: Section, cls: str) -> NoiseSchedule:
    steps = section.whole("num_train_timesteps", MOST_TIMESTEPS)
    section.require("use_flow_sigmas", True, False)
    if cls in _FLOW_MATCH:
        return NoiseSchedule("flow", steps, shift=section.real("shift", 1000))
    if section.get("use_flow_sigmas"):
        return NoiseSchedule("flow", steps, shift=section.real("flow_shift", 1000))
    betas = section.real("beta_start", 1), section.real("beta_end", 1)
    return NoiseSchedule(section.word("beta_schedule"), steps, *betas)


def _typed(section: Section, field: dataclasses.Field, value: Any) -> Any:
    """A flag of the type that its field has; a whole number may stand for another."""
    if field.type is float and type(value) is int:
        return float(value)
    if type(value) is not field.type:
        kind = f"a value of type {field.type.__name__}"
        raise UserError(f"{section.where}.{field.name}", quoted(value), kind, "Correct the file.")
    return value


def scheduler_json(sampler: Sampler) -> dict:
    """scheduler_config.json of a sampler."""
    name = next(n for n, cls in SAMPLERS.items() if type(sampler) is cls)
    schedule, flow_match = sampler.schedule, {n: c for c, n in _FLOW_MATCH.items()}
    values = {"num_train_timesteps": schedule.num_train_timesteps}
    if schedule.is_flow and name in flow_match:
        return {"_class_name": flow_match[name], **values, "shift": schedule.shift}
    cls = next(c for c, n in _CLASSES.items() if n == name and c not in _FLOW_MATCH)
    flags = {
        f.name: getattr(sampler, f.name)
        for f in dataclasses.fields(sampler)
        if f.name not in ("schedule", "num_inference_steps", "eta")
    }
    if schedule.is_flow:
        flags |= {"use_flow_sigmas": True, "flow_shift": schedule.shift}
    else:
        values |= {
            "beta_schedule": schedule.kind,
            "beta_start": schedule.beta_start,
            "beta_end": schedule.beta_end,
        }
    return {"_class_name": cls, **values, **flags}

"""scheduler_config.json of diffusers as a sampler, and back."""

import dataclasses
import pathlib

from unijax.core.errors import UserError
from unijax.interop.configs import read_json
from unijax.ops.diffusion import SAMPLERS, NoiseSchedule, Sampler, make_sampler

FILE = "scheduler_config.json"
_FLOW_MATCH = {"FlowMatchEulerDiscreteScheduler": "euler", "FlowMatchHeunDiscreteScheduler": "heun"}
_CLASSES = {
    "DDPMScheduler": "ddpm", "DDIMScheduler": "ddim", "PNDMScheduler": "pndm",
    "DPMSolverMultistepScheduler": "dpm_solver", "EulerDiscreteScheduler": "euler",
    "HeunDiscreteScheduler": "heun",
} | _FLOW_MATCH  # fmt: skip
_SCHEDULE = {
    "beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02, "num_train_timesteps": 1000,
}  # fmt: skip
# What their classes take for a key that a file leaves out, where ours takes something else.
_DEFAULTS = {
    "ddpm": {"clip_sample": True},
    "ddim": {"clip_sample": True},
    "heun": {"beta_start": 0.00085, "beta_end": 0.012},
}
# Keys of theirs that are no fields of ours, and what they must say. A value of None: anything.
_FIXED = {
    "trained_betas": [None], "thresholding": [False], "dynamic_thresholding_ratio": None,
    "sample_max_value": None, "rescale_betas_zero_snr": [False], "use_exponential_sigmas": [False],
    "use_beta_sigmas": [False], "use_lu_lambdas": [False], "interpolation_type": ["linear"],
    "timestep_type": ["discrete"], "sigma_min": [None], "sigma_max": [None],
    "variance_type": [None], "use_dynamic_shifting": [False], "time_shift_type": None,
    "base_shift": None, "max_shift": None, "base_image_seq_len": None, "max_image_seq_len": None,
    "invert_sigmas": [False], "shift_terminal": [None], "stochastic_sampling": [False],
    "clip_sample": None, "set_alpha_to_one": None, "skip_prk_steps": None,
}  # fmt: skip


def read_scheduler(directory: str | pathlib.Path, steps: int) -> Sampler:
    """The sampler of a scheduler's directory, for so many denoising steps.

    Stable Diffusion's files carry keys of other schedulers along: those are passed over.

    Raises:
      UserError: a scheduler, or something in its config, that this project does not have, by name.
    """
    path = pathlib.Path(directory) / FILE
    given = {k: v for k, v in read_json(path).items() if k == "_class_name" or k[0] != "_"}
    cls = given.pop("_class_name", None)
    if cls not in _CLASSES:
        raise UserError(
            f"{path}: _class_name", repr(cls), f"one of {sorted(_CLASSES)}",
            "Give another scheduler: the same model can be sampled with any that fits its noise.",
        )  # fmt: skip
    name = _CLASSES[cls]
    known = {f.name for f in dataclasses.fields(SAMPLERS[name])}
    known -= {"schedule", "num_inference_steps"}
    values = {**_SCHEDULE, **_DEFAULTS.get(name, {}), **given}
    schedule = _schedule(values, cls)
    flags = {}
    for key, value in values.items():
        if key in known:
            flags[key] = value
        elif key in _FIXED:
            if _FIXED[key] is not None and value not in _FIXED[key]:
                expected = " or ".join(map(repr, _FIXED[key]))
                raise UserError(
                    f"{path}: {key}", repr(value), expected, "This sampler has no such variant."
                )
        elif key not in (*_SCHEDULE, "shift", "use_flow_sigmas", "flow_shift"):
            raise UserError(
                f"{path}: {key}", repr(value), f"one of {sorted(known)}",
                "This sampler has no such flag.",
            )  # fmt: skip
    if schedule.is_flow:
        flags["prediction_type"] = "flow_prediction"
    return make_sampler(name, schedule, steps, **flags)


def _schedule(values: dict, cls: str) -> NoiseSchedule:
    steps = values["num_train_timesteps"]
    if cls in _FLOW_MATCH:
        return NoiseSchedule("flow", steps, shift=float(values.get("shift", 1.0)))
    if values.get("use_flow_sigmas"):
        return NoiseSchedule("flow", steps, shift=float(values.get("flow_shift", 1.0)))
    betas = float(values["beta_start"]), float(values["beta_end"])
    return NoiseSchedule(values["beta_schedule"], steps, *betas)


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

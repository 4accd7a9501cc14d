"""Samplers from diffusers' scheduler_config.json, and back."""

import json

import pytest

from tests.latent_oracles import diffusers
from unijax.core.errors import UserError
from unijax.interop.diffusers_scheduler import FILE, read_scheduler, scheduler_json
from unijax.ops.diffusion import NoiseSchedule, make_sampler

STABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULERS = {
    "DDPMScheduler": {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"},
    "DDIMScheduler": {**STABLE, "set_alpha_to_one": False, "steps_offset": 1},
    "PNDMScheduler": {**STABLE, "skip_prk_steps": True, "steps_offset": 1},
    "DPMSolverMultistepScheduler": {**STABLE, "solver_order": 3, "use_karras_sigmas": True},
    "EulerDiscreteScheduler": {**STABLE, "timestep_spacing": "leading"},
    "HeunDiscreteScheduler": {"clip_sample": True},
    "FlowMatchEulerDiscreteScheduler": {"shift": 3.0},
    "FlowMatchHeunDiscreteScheduler": {"shift": 2.0},
}
# Sana's own.
FLOW_DPM = {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_is_read_and_written_back(name, tmp_path):
    theirs = getattr(diffusers, name)(**SCHEDULERS[name])
    theirs.save_pretrained(tmp_path)
    ours = read_scheduler(tmp_path, 10)
    theirs.set_timesteps(10)
    # The timesteps at which the network is called are theirs: flags and levels arrived.
    assert [float(t) for t in ours.timesteps] == pytest.approx(theirs.timesteps.tolist(), abs=1e-3)
    (tmp_path / FILE).write_text(json.dumps(scheduler_json(ours)))
    assert read_scheduler(tmp_path, 10) == ours
    back = getattr(diffusers, name).from_pretrained(tmp_path)
    known = {k: v for k, v in back.config.items() if k[0] != "_"}
    assert known == {k: theirs.config[k] for k in known}


def test_sana_s_flow_is_read_and_written_back(tmp_path):
    theirs = diffusers.DPMSolverMultistepScheduler(**FLOW_DPM)
    theirs.save_pretrained(tmp_path)
    ours = read_scheduler(tmp_path, 30)
    flow = NoiseSchedule("flow", shift=3.0)
    assert ours == make_sampler("dpm_solver", flow, 30, prediction_type="flow_prediction")
    (tmp_path / FILE).write_text(json.dumps(scheduler_json(ours)))
    assert read_scheduler(tmp_path, 30) == ours


def test_stable_diffusion_s_file_is_read(tmp_path):
    # As it was released, with keys of other schedulers.
    released = {
        "_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", **STABLE,
        "num_train_timesteps": 1000, "set_alpha_to_one": False, "skip_prk_steps": True,
        "steps_offset": 1, "trained_betas": None, "clip_sample": False,
    }  # fmt: skip
    (tmp_path / FILE).write_text(json.dumps(released))
    schedule = NoiseSchedule("scaled_linear", beta_start=0.00085, beta_end=0.012)
    ours = read_scheduler(tmp_path, 50)
    assert ours == make_sampler("pndm", schedule, 50, skip_prk_steps=True, steps_offset=1)
    assert ours.calls == 51


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"_class_name": "UniPCMultistepScheduler"}, "found 'UniPCMultistepScheduler'; expected"),
        ({"_class_name": "DDIMScheduler", "thresholding": True}, "thresholding: found True; .*Fal"),
        ({"_class_name": "DDIMScheduler", "spacing": 1}, "spacing: found 1; expected None"),
        (
            {"_class_name": "DDIMScheduler", "steps_offset": "1"},
            "found '1'; expected a value of",
        ),
        ({"_class_name": "DDIMScheduler", "num_train_timesteps": 10**9}, "a whole number, 1 to"),
        ({"_class_name": ["DDIMScheduler"]}, r"found \['DDIMScheduler'\]; expected one of"),
        ({"_class_name": "DDIMScheduler", "prediction_type": "x"}, "found 'x'; expected one of"),
        ({"_class_name": "DDIMScheduler", "beta_schedule": "exp"}, "found 'exp'; expected one of"),
    ],
)
def test_what_is_not_there_is_refused(content, message, tmp_path):
    (tmp_path / FILE).write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        read_scheduler(tmp_path, 10)

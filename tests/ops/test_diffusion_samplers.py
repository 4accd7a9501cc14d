"""Every sampler against the diffusers scheduler of its name, step by step on the same outputs."""

import dataclasses
import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.latent_oracles import diffusers
from tests.long import LONG
from unijax.core.errors import UserError
from unijax.ops.diffusion import (
    SAMPLERS,
    NoiseSchedule,
    Sampler,
    denoise,
    draw_step_noise,
    make_sampler,
)

COSINE = NoiseSchedule()
LINEAR = NoiseSchedule("linear")
STABLE = NoiseSchedule("scaled_linear", beta_start=0.00085, beta_end=0.012)
FLOW = NoiseSchedule("flow", shift=3.0)
SHAPE = (2, 3, 4, 5)
THEIRS = {
    "ddpm": diffusers.DDPMScheduler,
    "ddim": diffusers.DDIMScheduler,
    "pndm": diffusers.PNDMScheduler,
    "dpm_solver": diffusers.DPMSolverMultistepScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "heun": diffusers.HeunDiscreteScheduler,
}
FLOW_THEIRS = {
    "euler": diffusers.FlowMatchEulerDiscreteScheduler,
    "heun": diffusers.FlowMatchHeunDiscreteScheduler,
}


def reference(name, schedule, flags):
    """The scheduler of diffusers with the same flags."""
    flags = dict(flags)
    flags.pop("eta", None)
    if name in FLOW_THEIRS and schedule.is_flow:
        flags.pop("prediction_type")
        return FLOW_THEIRS[name](schedule.num_train_timesteps, shift=schedule.shift, **flags)
    if schedule.is_flow:
        flags |= {"use_flow_sigmas": True, "flow_shift": schedule.shift}
    else:
        flags |= {
            "beta_schedule": schedule.kind,
            "beta_start": schedule.beta_start,
            "beta_end": schedule.beta_end,
        }
    if name in ("ddpm", "ddim"):
        flags.setdefault("clip_sample", False)
    return THEIRS[name](num_train_timesteps=schedule.num_train_timesteps, **flags)


def assert_steps_equal(name, schedule, steps, **flags):
    """The network's inputs, its timesteps, each step from the same picture, and all in a row."""
    ours = make_sampler(name, schedule, steps, **flags)
    theirs = reference(name, schedule, flags)
    theirs.set_timesteps(steps)
    if hasattr(theirs, "set_begin_index"):
        theirs.set_begin_index(0)  # or it begins with the second of equal timesteps
    assert len(theirs.timesteps) == ours.calls
    rng = np.random.default_rng(0)
    first, *random = rng.standard_normal((1 + ours.calls, *SHAPE)).astype(np.float32)
    fresh = rng.standard_normal((ours.calls, *SHAPE)).astype(np.float32)

    picture = torch.from_numpy(first) * getattr(theirs, "init_noise_sigma", 1.0)
    state = in_a_row = ours.init(jnp.asarray(first))
    largest = np.abs(picture).max()
    for i, timestep in enumerate(theirs.timesteps):
        where = f"{name} {flags}, call {i} of {ours.calls}"
        state = state.replace(sample=jnp.asarray(picture.numpy()))
        x, told = ours.model_input(state)
        given = picture
        if hasattr(theirs, "scale_model_input"):
            given = theirs.scale_model_input(picture, timestep)
        assert_close(x, given, where)
        assert float(told) == pytest.approx(float(timestep), rel=1e-5, abs=1e-4), where
        output = network(schedule, ours.prediction_type, given.numpy(), float(timestep), random[i])
        noise = jnp.asarray(fresh[i]) if ours.stochastic else None
        before = np.abs(picture).max()
        state, in_a_row = (ours.step(s, jnp.asarray(output), noise) for s in (state, in_a_row))
        picture = their_step(theirs, output, timestep, picture, fresh[i], flags)
        # From much noise to little a step cancels: it rounds as what it subtracts.
        subtracted = before * growth(name, schedule, theirs.timesteps, i)
        assert_close(state.sample, picture, where, at_least=subtracted)
        largest = max(largest, np.abs(picture).max())
    assert_close(in_a_row.sample, picture, f"{where}, in a row", largest, tolerance=1e-4)
    assert int(in_a_row.call) == ours.calls


def growth(name, schedule, timesteps, i):
    """By how much a step enlarges a picture before it takes noise away, at most."""
    if schedule.is_flow:
        return 1.0
    begun = max(0, i - 3) if name == "pndm" else i  # its four calls of a step begin at one picture
    first = max(timesteps[begun : i + 1])
    last = min(timesteps[i : i + 2]) if i + 1 < len(timesteps) else 0
    kept = schedule.alphas_cumprod
    return max(1.0, (kept[int(last)] / kept[int(first)]) ** 0.5)


def network(schedule, prediction, x, timestep, random):
    """What the best of networks says where pictures are standard normal, and a tenth at random."""
    if schedule.is_flow:
        sigma = timestep / schedule.num_train_timesteps
        alpha = 1 - sigma
    else:
        kept = schedule.alphas_cumprod
        alpha = np.interp(timestep, np.arange(len(kept)), kept) ** 0.5
        sigma = (1 - alpha**2) ** 0.5
    picture, noise = (share * x / (alpha**2 + sigma**2) for share in (alpha, sigma))
    best = {
        "epsilon": noise,
        "sample": picture,
        "v_prediction": alpha * noise - sigma * picture,
        "flow_prediction": noise - picture,
    }[prediction]
    return (best + 0.1 * random).astype(np.float32)


def their_step(theirs, output, timestep, picture, noise, flags):
    """One step of diffusers, with our noise where it draws some."""
    output, noise = torch.from_numpy(output), torch.from_numpy(noise)
    extra = {"eta": flags["eta"], "variance_noise": noise} if "eta" in flags else {}
    if flags.get("algorithm_type", "").startswith("sde"):
        extra = {"variance_noise": noise}
    if isinstance(theirs, diffusers.DDPMScheduler):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: noise
            )
            return theirs.step(output, timestep, picture).prev_sample
    return theirs.step(output, timestep, picture, **extra).prev_sample


def assert_close(ours, theirs, where, at_least=0.0, tolerance=1e-5):
    """Of the largest magnitude."""
    theirs = np.asarray(theirs)
    error = np.abs(np.asarray(ours) - theirs).max() / max(np.abs(theirs).max(), float(at_least))
    assert error <= tolerance, f"{where}: {error}"


SPACINGS = ("leading", "trailing", "linspace")
PREDICTIONS = ("epsilon", "sample", "v_prediction")


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddpm(spacing, prediction):
    both = {"prediction_type": prediction, "timestep_spacing": spacing}
    assert_steps_equal("ddpm", COSINE, 9, **both)
    assert_steps_equal("ddpm", LINEAR, 7, clip_sample=True, clip_sample_range=1.5, **both)
    assert_steps_equal("ddpm", STABLE, 5, variance_type="fixed_large", **both)


def test_ddpm_of_every_timestep_is_equal_to_the_last():
    assert_steps_equal("ddpm", dataclasses.replace(COSINE, num_train_timesteps=60), 60)
    assert_steps_equal("ddpm", dataclasses.replace(LINEAR, num_train_timesteps=60), 60)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddim(spacing, prediction):
    both = {"prediction_type": prediction, "timestep_spacing": spacing}
    assert_steps_equal("ddim", COSINE, 9, **both)
    assert_steps_equal("ddim", STABLE, 7, set_alpha_to_one=False, steps_offset=1, **both)
    assert_steps_equal("ddim", LINEAR, 6, eta=0.7, clip_sample=True, **both)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_pndm(spacing, prediction):
    both = {"prediction_type": prediction, "timestep_spacing": spacing}
    assert_steps_equal("pndm", STABLE, 9, skip_prk_steps=True, steps_offset=1, **both)
    assert_steps_equal("pndm", STABLE, 2, skip_prk_steps=True, **both)
    assert_steps_equal("pndm", STABLE, 1, skip_prk_steps=True, **both)
    assert_steps_equal("pndm", LINEAR, 7, set_alpha_to_one=True, **both)
    assert_steps_equal("pndm", LINEAR, 4, **both)


@pytest.mark.parametrize("algorithm", ["dpmsolver++", "sde-dpmsolver++"])
@pytest.mark.parametrize("solver", ["midpoint", "heun"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_dpm_solver_of_every_order(algorithm, solver, order):
    if (algorithm, order) == ("sde-dpmsolver++", 3):
        with pytest.raises(UserError, match=r"found 3 of 'sde-dpmsolver\+\+'; expected one of"):
            make_sampler("dpm_solver", STABLE, 5, algorithm_type=algorithm, solver_order=order)
        return
    same = {"algorithm_type": algorithm, "solver_type": solver, "solver_order": order}
    assert_steps_equal("dpm_solver", STABLE, 8, **same)
    assert_steps_equal("dpm_solver", LINEAR, 16, **same)
    assert_steps_equal("dpm_solver", STABLE, 6, lower_order_final=False, **same)
    assert_steps_equal("dpm_solver", STABLE, 16, final_sigmas_type="sigma_min", **same)
    flow = {"prediction_type": "flow_prediction", **same}
    assert_steps_equal("dpm_solver", FLOW, 8, **flow)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_dpm_solver(spacing, prediction):
    both = {"prediction_type": prediction, "timestep_spacing": spacing}
    assert_steps_equal("dpm_solver", STABLE, 20, steps_offset=1, **both)
    final = {"euler_at_final": True, "final_sigmas_type": "sigma_min"}
    assert_steps_equal("dpm_solver", LINEAR, 17, **final, **both)
    assert_steps_equal("dpm_solver", COSINE, 8, lambda_min_clipped=-5.1, **both)


@pytest.mark.parametrize("schedule", [STABLE, COSINE], ids=["stable", "cosine"])
def test_karras_levels(schedule):
    for name in ("dpm_solver", "euler", "heun"):
        assert_steps_equal(name, schedule, 7, use_karras_sigmas=True)


@pytest.mark.parametrize("name", ["euler", "heun"])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_euler_and_heun(name, spacing, prediction):
    both = {"prediction_type": prediction, "timestep_spacing": spacing}
    assert_steps_equal(name, STABLE, 9, steps_offset=1, **both)
    more = {"final_sigmas_type": "sigma_min"} if name == "euler" else {"clip_sample": True}
    assert_steps_equal(name, LINEAR, 8, **more, **both)
    assert_steps_equal(name, COSINE, 1, **both)


@pytest.mark.parametrize("name", ["euler", "heun", "dpm_solver"])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flows(name, shift):
    schedule = NoiseSchedule("flow", shift=shift)
    for steps in (1, 2, 7, 30):
        assert_steps_equal(name, schedule, steps, prediction_type="flow_prediction")


# Numbers of steps that do and do not divide the timesteps, and spacings that round.
@hypothesis.settings(max_examples=50 if LONG else 4, deadline=None)
@hypothesis.given(
    name=st.sampled_from(sorted(SAMPLERS)),
    steps=st.integers(4, 30),
    train=st.integers(40, 1000),
    schedule=st.sampled_from([LINEAR, STABLE, COSINE]),
    spacing=st.sampled_from(SPACINGS),
    prediction=st.sampled_from(["epsilon", "v_prediction"]),
    offset=st.integers(0, 1),
)
# From a timestep at which nearly nothing is left of the picture.
@hypothesis.example("pndm", 4, 40, COSINE, "trailing", "v_prediction", 0)
def test_any_number_of_steps(name, steps, train, schedule, spacing, prediction, offset):
    # By rounding diffusers has a step too many at times, to a timestep of -1.
    hypothesis.assume(len(np.arange(train, 0, -train / steps)) == steps)
    assert_steps_equal(
        name,
        dataclasses.replace(schedule, num_train_timesteps=train),
        steps,
        timestep_spacing=spacing,
        prediction_type=prediction,
        steps_offset=offset,
    )


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_compiled_loop_equals_steps_by_hand(name):
    flags = {"eta": 0.5} if name == "ddim" else {}
    flags |= {"algorithm_type": "sde-dpmsolver++"} if name == "dpm_solver" else {}
    sampler = make_sampler(name, STABLE, 5, **flags)
    assert isinstance(sampler, Sampler)
    assert hash(sampler) == hash(make_sampler(name, STABLE, 5, **flags))
    noise = jax.random.normal(jax.random.key(0), SHAPE)
    seeds = jnp.array([3, 9], jnp.uint32)

    def predict(x, timestep, calls):
        return jnp.sin(3 * x) + timestep / 1000 + calls, calls + 0.1

    looped = jax.jit(lambda noise, seeds: denoise(sampler, noise, predict, seeds, 0.0))
    state = sampler.init(noise)
    for call in range(sampler.calls):
        x, timestep = sampler.model_input(state)
        fresh = draw_step_noise(seeds, jnp.int32(call), SHAPE[1:]) if sampler.stochastic else None
        state = sampler.step(state, predict(x, timestep, 0.1 * call)[0], fresh)
    assert_close(looped(noise, seeds), state.sample, name)
    # A picture is drawn alike wherever it stands, and beside whatever.
    alone = looped(noise[1:], seeds[1:])
    assert_close(alone, state.sample[1:], name)


@pytest.mark.parametrize("name", sorted({*SAMPLERS} - {"pndm"}))  # which predicts no pictures
def test_a_network_that_knows_the_picture_draws_it(name):
    picture, noise = jax.random.normal(jax.random.key(1), (2, *SHAPE))
    schedules = [STABLE, FLOW] if name in ("dpm_solver", "euler", "heun") else [STABLE]
    for schedule in schedules:
        flow = schedule.is_flow
        kind = "flow_prediction" if flow else "sample"
        sampler = make_sampler(name, schedule, 6, prediction_type=kind)
        said = noise - picture if flow else picture
        knows = lambda x, t, kept, said=said: (said, kept)  # noqa: E731
        drawn = denoise(sampler, noise, knows, jnp.arange(2, dtype="uint32"))
        # DPM-Solver's first level of a flow leaves a thousandth of the picture out.
        np.testing.assert_allclose(drawn, picture, atol=1e-2 if flow else 1e-4)


def test_steps_that_cannot_be_are_refused():
    for name, fewest, most in (("ddpm", 1, 1000), ("pndm", 4, 1000), ("dpm_solver", 1, 999)):
        make_sampler(name, LINEAR, fewest)
        for steps in (fewest - 1, most + 1):
            with pytest.raises(UserError, match=f"found {steps}; expected {fewest} to {most}"):
                make_sampler(name, LINEAR, steps)
    with pytest.raises(UserError, match=r"a first timestep of 1000; expected at most 999"):
        make_sampler("ddim", LINEAR, 1000, steps_offset=1)


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("dpm_solvr", {}, r"found 'dpm_solvr'; expected one of \[.*\]. Did you mean 'dpm_solver'"),
        ("ddim", {"etta": 0.5}, r"unknown flag 'etta'; .* Did you mean 'eta'"),
        ("ddim", {"eta": 1.5}, r"ddim.eta: found 1.5; expected a number in 0..1"),
        ("ddpm", {"timestep_spacing": "even"}, r"ddpm.timestep_spacing: found 'even'; .*leading"),
        ("ddpm", {"variance_type": "learned"}, r"found 'learned'; .*fixed_small"),
        ("pndm", {"prediction_type": "sample"}, r"found 'sample'; expected one of \['epsilon'"),
        ("euler", {"prediction_type": "flow_prediction"}, r"found 'flow_prediction'; expected"),
        ("euler", {"final_sigmas_type": "tiny"}, r"euler.final_sigmas_type: found 'tiny'"),
        ("dpm_solver", {"solver_order": 4}, r"found 4 of 'dpmsolver\+\+'; expected one of \[1, 2"),
        ("dpm_solver", {"algorithm_type": "deis"}, r"found 'deis'; expected one of"),
    ],
)
def test_names_that_are_not_there_are_refused(name, flags, message):
    with pytest.raises(UserError, match=message):
        make_sampler(name, STABLE, 10, **flags)


def test_flows_and_diffusion_are_not_mixed():
    for name in ("ddpm", "ddim", "pndm"):
        with pytest.raises(UserError, match=f"{name}: noise schedule: found 'flow'"):
            make_sampler(name, FLOW, 10)
    for name, flag in itertools.product(("euler", "heun", "dpm_solver"), (True, False)):
        flags = {"use_karras_sigmas": flag}
        kind = "flow_prediction" if flag else "epsilon"
        with pytest.raises(UserError):
            make_sampler(name, FLOW, 10, prediction_type=kind, **flags)
    with pytest.raises(UserError, match=r"sigma_min.*found 'flow'"):
        make_sampler(
            "euler", FLOW, 9, prediction_type="flow_prediction", final_sigmas_type="sigma_min"
        )

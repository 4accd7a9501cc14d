"""Schedules, noise and targets against diffusers, and draws that belong to a picture."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.latent_oracles import diffusers
from unijax.core.errors import UserError
from unijax.ops.diffusion import (
    PREDICTIONS,
    Level,
    NoiseSchedule,
    add_noise,
    convert,
    draw_noise,
    draw_step_noise,
    draw_timesteps,
    picture_and_noise,
    target,
)

SHAPE = (3, 4, 4, 2)


def theirs(schedule: NoiseSchedule) -> diffusers.DDPMScheduler:
    return diffusers.DDPMScheduler(
        schedule.num_train_timesteps,
        schedule.beta_start,
        schedule.beta_end,
        schedule.kind,
    )


@pytest.mark.parametrize("steps", [1, 2, 37, 1000])
@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_schedules_are_those_of_diffusers(kind, steps):
    schedule = NoiseSchedule(kind, steps, beta_start=0.00085, beta_end=0.012)
    expected = theirs(schedule).alphas_cumprod.numpy()
    assert schedule.alphas_cumprod.dtype == np.float32
    # torch's linspace rounds as its vectors are wide; the cosine has none.
    rtol = 0 if kind == "squaredcos_cap_v2" else 1e-6
    np.testing.assert_allclose(schedule.alphas_cumprod, expected, rtol=rtol)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flows_are_those_of_diffusers(shift):
    schedule = NoiseSchedule("flow", shift=shift)
    flow = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    timestep = jnp.arange(1000)[::-1]
    np.testing.assert_allclose(schedule.level(timestep).sigma, flow.sigmas, rtol=1e-6)
    np.testing.assert_allclose(schedule.model_timestep(timestep), flow.timesteps, rtol=1e-6)
    np.testing.assert_allclose(schedule.level(timestep).alpha, 1 - flow.sigmas, atol=1e-7)


def test_a_timestep_of_minus_one_is_a_clean_picture():
    for schedule in (NoiseSchedule(), NoiseSchedule("flow", shift=3.0)):
        level = schedule.level(jnp.array([-1, 0, 999]))
        assert level.alpha[0] == 1
        assert level.sigma[0] == 0
        assert level.sigma[0] < level.sigma[1] < level.sigma[2]
        picture, noise = jax.random.normal(jax.random.key(0), (2, *SHAPE))
        np.testing.assert_array_equal(add_noise(picture, noise, level)[0], picture[0])


def test_noised_pictures_and_velocities_are_those_of_diffusers():
    picture, noise = np.random.default_rng(0).standard_normal((2, *SHAPE)).astype(np.float32)
    timestep = np.array([0, 400, 999])
    x, e, t = map(torch.from_numpy, (picture, noise, timestep))
    for kind in ("squaredcos_cap_v2", "linear"):
        schedule = NoiseSchedule(kind)
        level = schedule.level(jnp.asarray(timestep))
        noisy = add_noise(jnp.asarray(picture), jnp.asarray(noise), level)
        np.testing.assert_allclose(noisy, theirs(schedule).add_noise(x, e, t), atol=1e-6)
        v = target("v_prediction", jnp.asarray(picture), jnp.asarray(noise), level)
        np.testing.assert_allclose(v, theirs(schedule).get_velocity(x, e, t), atol=1e-6)
    schedule = NoiseSchedule("flow", shift=3.0)
    flow = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    noisy = add_noise(
        jnp.asarray(picture), jnp.asarray(noise), schedule.level(jnp.asarray(timestep))
    )
    expected = flow.scale_noise(x, flow.timesteps[999 - timestep], e)
    np.testing.assert_allclose(noisy, expected, atol=1e-6)


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
    a=st.sampled_from(PREDICTIONS),
    b=st.sampled_from(PREDICTIONS),
    kind=st.sampled_from(["flow", "squaredcos_cap_v2", "linear"]),
    timestep=st.integers(100, 900),
)
def test_predictions_say_the_same(a, b, kind, timestep):
    picture, noise = jax.random.normal(jax.random.key(timestep), (2, *SHAPE))
    level = NoiseSchedule(kind).level(jnp.full(SHAPE[:1], timestep))
    x = add_noise(picture, noise, level)
    said = target(a, picture, noise, level)
    np.testing.assert_allclose(convert(said, x, level, a, b), target(b, picture, noise, level),
                               atol=2e-4)  # fmt: skip
    for found, expected in zip(picture_and_noise(a, said, x, level), (picture, noise)):
        np.testing.assert_allclose(found, expected, atol=2e-4)


def test_targets_as_their_papers_write_them():
    picture, noise, level = jnp.array([2.0]), jnp.array([5.0]), Level(jnp.float32(0.6), 0.8)
    expected = {
        "epsilon": 5.0, "sample": 2.0, "v_prediction": 0.6 * 5 - 0.8 * 2, "flow_prediction": 3.0,
    }  # fmt: skip
    assert set(expected) == set(PREDICTIONS)
    for name, value in expected.items():
        assert float(target(name, picture, noise, level)[0]) == pytest.approx(value)


def test_noise_and_arithmetic_are_float32_for_pictures_in_bfloat16():
    picture = jnp.ones(SHAPE, jnp.bfloat16)
    noise = draw_noise(jnp.arange(3, dtype=jnp.uint32), SHAPE[1:])
    level = NoiseSchedule().level(jnp.array([1, 2, 3]))
    assert noise.dtype == add_noise(picture, noise, level).dtype == jnp.float32
    assert target("v_prediction", picture, noise, level).dtype == jnp.float32


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(
    seeds=st.lists(st.integers(0, 2**32 - 1), min_size=6, max_size=6),
    order=st.permutations(range(6)),
)
def test_draws_are_functions_of_the_seed_alone(seeds, order):
    seeds, order = np.array(seeds, np.uint32), np.array(order)
    draws = jax.jit(
        lambda seed: (
            draw_noise(seed, (5,)),
            draw_timesteps(seed, jnp.full(seed.shape, 1000)),
            draw_step_noise(seed, jnp.int32(3), (5,)),
        )
    )
    in_a_row, in_a_square = draws(seeds), draws(seeds[order].reshape(2, 3))
    for a, b in zip(in_a_row, in_a_square):
        b = np.asarray(b).reshape(6, *b.shape[2:])
        np.testing.assert_array_equal(np.asarray(a)[order], b)


def test_draws_are_what_they_should_be():
    seeds = jnp.arange(20_000, dtype=jnp.uint32)
    noise = draw_noise(seeds, (2,))
    np.testing.assert_allclose(jnp.mean(noise, 0), 0, atol=0.03)
    np.testing.assert_allclose(jnp.cov(noise.T), np.eye(2), atol=0.04)
    for count in (1000, 500, 7):
        t = np.asarray(draw_timesteps(seeds, jnp.full(seeds.shape, count)))
        assert (t.min(), t.max()) == (0, count - 1)
        assert t.mean() == pytest.approx((count - 1) / 2, rel=0.02)
    # None of the draws of a picture says anything about another.
    columns = [
        noise[:, 0], t, draw_step_noise(seeds, jnp.int32(0), ()),
        draw_step_noise(seeds, jnp.int32(1), ()),
    ]  # fmt: skip
    np.testing.assert_allclose(np.corrcoef(np.stack(columns)), np.eye(4), atol=0.03)


def test_pictures_of_a_batch_have_limits_of_their_own():
    seeds = jnp.arange(3000, dtype=jnp.uint32)
    count = jnp.tile(jnp.array([1000, 500, 0]), 1000)
    t = np.asarray(draw_timesteps(seeds, count)).reshape(-1, 3)
    assert t[:, 0].max() > 900
    assert 480 < t[:, 1].max() < 500
    assert set(t[:, 2]) == {-1}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "cosine"}, "found 'cosine'; expected one of .*'squaredcos_cap_v2'"),
        ({"num_train_timesteps": 0}, "found 0; expected at least 1"),
        ({"beta_start": 0.03}, "found 0.03, 0.02; expected 0 < beta_start <= beta_end < 1"),
        ({"shift": 3.0}, "found 3.0 with the kind 'squaredcos_cap_v2'; .*'flow'"),
        ({"kind": "flow", "shift": 0.0}, "found 0.0 with the kind 'flow'; .*positive"),
    ],
)
def test_schedules_that_cannot_be_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        NoiseSchedule(**fields)


def test_an_unknown_prediction_is_refused():
    x, level = jnp.zeros(SHAPE), NoiseSchedule().level(jnp.zeros(3, jnp.int32))
    for call in (
        lambda: target("noise", x, x, level),
        lambda: convert(x, x, level, "epsilon", "noise"),
        lambda: convert(x, x, level, "noise", "epsilon"),
    ):
        with pytest.raises(UserError, match="found 'noise'; expected one of"):
            call()

"""Noise, what a network predicts of it, and samplers that take it away."""

from unijax.ops.diffusion.api import SAMPLERS, make_sampler
from unijax.ops.diffusion.noising import (
    EPSILON,
    FLOW,
    PREDICTIONS,
    V,
    add_noise,
    check_prediction,
    convert,
    draw_noise,
    draw_step_noise,
    draw_timesteps,
    picture_and_noise,
    target,
)
from unijax.ops.diffusion.sampling import Sampler, State, denoise
from unijax.ops.diffusion.schedule import Level, NoiseSchedule

__all__ = [
    "EPSILON",
    "FLOW",
    "PREDICTIONS",
    "SAMPLERS",
    "Level",
    "NoiseSchedule",
    "Sampler",
    "State",
    "V",
    "add_noise",
    "check_prediction",
    "convert",
    "denoise",
    "draw_noise",
    "draw_step_noise",
    "draw_timesteps",
    "make_sampler",
    "picture_and_noise",
    "target",
]

"""Noise, what a network predicts of it, and samplers that take it away."""

from unijax.ops.diffusion.api import SAMPLERS, make_sampler
from unijax.ops.diffusion.noising import (
    PREDICTIONS,
    add_noise,
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
    "PREDICTIONS",
    "SAMPLERS",
    "Level",
    "NoiseSchedule",
    "Sampler",
    "State",
    "add_noise",
    "convert",
    "denoise",
    "draw_noise",
    "draw_step_noise",
    "draw_timesteps",
    "make_sampler",
    "picture_and_noise",
    "target",
]

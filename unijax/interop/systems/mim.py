"""The student of masked image modelling in timm's form. The teacher and the head stay here."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unijax.core.system import Params
from unijax.interop import given, timm_tower
from unijax.interop.interface import Comparison, Interop, Outputs, Part
from unijax.interop.opening import ForeignModel
from unijax.interop.parts import tower_size, tower_widths
from unijax.systems.mim import Mim, MimConfig

_ABOUT = (
    "A vision tower trained by masked image modelling, as EVA "
    "([2211.07636](https://arxiv.org/abs/2211.07636)): of what it did not see it said what a "
    "frozen teacher sees there."
)


def _prompts(config: MimConfig, directory: pathlib.Path, rng: np.random.Generator) -> np.ndarray:
    del directory
    return timm_tower.pixels(config.vision, rng)


def _ours(config: MimConfig, params: Params, pixels: np.ndarray, theirs: Outputs) -> Outputs:
    del theirs
    tower = Mim(config).vision_model
    return {"features": jax.device_get(tower(params["vision_model"], jnp.asarray(pixels)))}


def _theirs(model: ForeignModel, pixels: np.ndarray) -> Outputs:
    return {"features": timm_tower.outputs(model.directory, pixels)[0]}


def _eva(place: pathlib.Path, config: Any, notes: list[str]) -> given.Opened:
    return timm_tower.given(place, config.vision, notes)


INTEROP = Interop(
    "mim",
    (timm_tower.TOWER,),
    Comparison(_prompts, _theirs, _ours),
    _ABOUT,
    lambda config: tower_size(config.vision),
    parts=(Part("eva", timm_tower.EVA, _eva),),
    stacks=lambda config: {"vision_model/": config.vision.num_hidden_layers},
    widths=lambda config: tower_widths(config.vision),
    task="image-feature-extraction",
    unsaid=timm_tower.UNSAID,
)

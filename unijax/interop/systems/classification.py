"""A tower and its linear head in timm's form.

timm's own fine-tuned EVAs have their last norm behind the mean of the patches (`fc_norm`) where
here it stands before: they are refused for the norm that they lack.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unijax.core.errors import UserError
from unijax.core.json_files import quoted, read_object
from unijax.core.system import Params
from unijax.interop import given, timm_tower
from unijax.interop.interface import Comparison, Export, Interop, Outputs, Part
from unijax.interop.opening import ForeignModel
from unijax.interop.parts import tower_size, tower_widths
from unijax.systems.classification import Classification, ClassificationConfig

_POOLING = {"mean": "avg", "class": "token"}
_HEAD = ("head", "head")
_ABOUT = "A vision tower and a linear head that says which class a picture is of."
_USE = """\
```python
import timm

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
scores = model(pixels)  # of every class; pixels by `pretrained_cfg`
```"""


def _read_config(directory: pathlib.Path, notes: list[str], like: Any) -> ClassificationConfig:
    del like
    path = directory / "config.json"
    pooled = (read_object(path).get("model_args") or {}).get("global_pool", "avg")
    names = {theirs: ours for ours, theirs in _POOLING.items()}
    if pooled not in names:
        raise UserError(
            f"{path}.model_args.global_pool", quoted(pooled), f"one of {[*names]}",
            "This model has no other kind.",
        )  # fmt: skip
    vision = timm_tower.read_config(directory, notes)
    return ClassificationConfig(vision, timm_tower.classes_of(directory), names[pooled])


def _write(export: Export) -> dict[str, str]:
    c = export.config
    pooling = {"global_pool": _POOLING[c.pooling], "use_fc_norm": False}
    return timm_tower.write(export, pooling, c.classes)


def _prompts(
    config: ClassificationConfig, directory: pathlib.Path, rng: np.random.Generator
) -> np.ndarray:
    del directory
    return timm_tower.pixels(config.vision, rng)


def _ours(
    config: ClassificationConfig, params: Params, pixels: np.ndarray, theirs: Outputs
) -> Outputs:
    del theirs
    system = Classification(config)
    scores = system.logits(params, system.encode(params, jnp.asarray(pixels)))
    return {"scores": jax.device_get(scores)}


def _theirs(model: ForeignModel, pixels: np.ndarray) -> Outputs:
    return {"scores": timm_tower.outputs(model.directory, pixels)[1]}


def _sizes(config: ClassificationConfig) -> dict[str, str]:
    return tower_size(config.vision) | {"classes": f"{config.classes:,}"}


def _eva(place: pathlib.Path, config: Any, notes: list[str]) -> given.Opened:
    return timm_tower.given(place, config.vision, notes)


INTEROP = Interop(
    "classification",
    (
        dataclasses.replace(
            timm_tower.TOWER,
            kind="an EVA classifier of timm",
            matches=lambda directory: (
                timm_tower.is_one(directory) and timm_tower.classes_of(directory) > 0
            ),
            read_config=_read_config,
            table=lambda config, directory: timm_tower.table(config.vision, _HEAD),
            write=_write,
            use=_USE,
            whole=True,
        ),
    ),
    Comparison(_prompts, _theirs, _ours, logits=("scores",)),
    _ABOUT,
    _sizes,
    parts=(Part("eva", timm_tower.EVA, _eva),),
    stacks=lambda config: {"vision_model/": config.vision.num_hidden_layers},
    widths=lambda config: tower_widths(config.vision) | {"classes": config.classes},
    task="image-classification",
    unsaid=timm_tower.UNSAID,
)

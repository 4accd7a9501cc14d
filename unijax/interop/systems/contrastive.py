"""The vision tower of a contrastive system: SigLIP's in transformers' form, EVA's in timm's.

No class there has the rest of a SigLIP: texts and pictures are means here, and the projections are
their own. A tower alone is imported as a part.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unijax.core.json_files import write_object
from unijax.core.system import Params
from unijax.interop import given, timm_tower
from unijax.interop.config_files import siglip_json
from unijax.interop.config_parts import model_type, siglip_config
from unijax.interop.interface import Comparison, Export, Format, Interop, Outputs, Part
from unijax.interop.opening import ForeignModel
from unijax.interop.parts import siglip_part, tower_size, tower_widths
from unijax.interop.table import Table
from unijax.systems.contrastive import Contrastive, ContrastiveConfig

_KINDS = ("siglip_vision_model", "siglip")
_ABOUT = (
    "The vision tower of a contrastive model of pictures and texts "
    "([2303.15343](https://arxiv.org/abs/2303.15343), "
    "[2303.15389](https://arxiv.org/abs/2303.15389)), without pooling head."
)
_USE = """\
```python
from transformers import SiglipVisionModel

tower = SiglipVisionModel.from_pretrained(FOLDER)
```"""


def _read_config(directory: pathlib.Path, notes: list[str], like: Any) -> ContrastiveConfig:
    found = siglip_config(directory, notes)
    # A tower says nothing of where features are taken.
    vision = dataclasses.replace(found, features=like.vision.features)
    return dataclasses.replace(like, vision=vision)


def _table(config: ContrastiveConfig, directory: pathlib.Path) -> Table:
    del directory
    # transformers 5 saves a tower alone without a prefix, and reads it with and without.
    return siglip_part(config.vision, "vision_model.")


def _write(export: Export) -> dict[str, str]:
    content = {
        "architectures": ["SiglipVisionModel"],
        "torch_dtype": export.dtype,
        **siglip_json(export.config.vision),
    }
    write_object(export.directory / "config.json", content)
    return {}


def _prompts(
    config: ContrastiveConfig, directory: pathlib.Path, rng: np.random.Generator
) -> np.ndarray:
    """Pictures in -1..1."""
    del directory
    return timm_tower.pixels(config.vision, rng)


def _ours(
    config: ContrastiveConfig, params: Params, pixels: np.ndarray, theirs: Outputs
) -> Outputs:
    del theirs
    tower = Contrastive(config).vision_model
    return {"features": jax.device_get(tower(params["vision_model"], jnp.asarray(pixels)))}


def _theirs(model: ForeignModel, pixels: np.ndarray) -> Outputs:
    """Of every token, after the last norm if the tower has it here."""
    if model.format.name == "timm":
        return {"features": timm_tower.outputs(model.directory, pixels)[0]}
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    tower = transformers.SiglipVisionModel.from_pretrained(
        model.directory, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    ).eval()
    with torch.no_grad():
        given_pixels = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
        out = tower(pixel_values=given_pixels, output_hidden_states=True)
    last = model.config.vision.features == "post_norm"
    features = out.last_hidden_state if last else out.hidden_states[-1]
    return {"features": features.numpy()}


def _siglip(place: pathlib.Path, config: ContrastiveConfig, notes: list[str]) -> given.Opened:
    return given.siglip(place, config.vision, notes)


def _eva(place: pathlib.Path, config: ContrastiveConfig, notes: list[str]) -> given.Opened:
    return timm_tower.given(place, config.vision, notes)


INTEROP = Interop(
    "contrastive",
    (
        Format(
            "hf",
            "a SigLIP tower of transformers",
            matches=lambda directory: model_type(directory) in _KINDS,
            read_config=_read_config,
            table=_table,
            write=_write,
            whole=False,
            tied=None,
            loads="SiglipVisionModel",
            use=_USE,
            package="transformers",
            fits=lambda config: config.vision.kind == "siglip",
        ),
        timm_tower.TOWER,
    ),
    Comparison(_prompts, _theirs, _ours),
    _ABOUT,
    lambda config: tower_size(config.vision),
    parts=(Part("siglip", given.SIGLIP, _siglip), Part("eva", timm_tower.EVA, _eva)),
    stacks=lambda config: {"vision_model/": config.vision.num_hidden_layers},
    widths=lambda config: tower_widths(config.vision),
    task="image-feature-extraction",
    unsaid=timm_tower.UNSAID,
)

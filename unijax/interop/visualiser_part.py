"""A tower and the visualiser of its features in folders: vision_tower, projector, a pipeline's.

`projector` is the release's own module (`SimplifiedSigLIPProjector`, of two layers), the others are
transformers' SiglipVisionModel and diffusers' networks.
"""

import itertools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from unijax.core.errors import UserError
from unijax.core.json_files import write_object
from unijax.interop import given, painter_part
from unijax.interop.config_files import siglip_json
from unijax.interop.folders import Folder
from unijax.interop.interface import Part
from unijax.interop.live_llama import loaded
from unijax.interop.parts import siglip
from unijax.interop.table import Entry, Shape, Source, linear, norm
from unijax.models.siglip import SiglipConfig
from unijax.models.towers import TowerConfig
from unijax.systems.features import VisualiserConfig

FOLDERS = (
    Folder("vision_tower/", "vision_tower"),
    Folder("projector/", "projector"),
    *painter_part.FOLDERS,
)
# How its folders are loaded, for model cards.
USE = """\
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import SiglipVisionModel

tower = SiglipVisionModel.from_pretrained(FOLDER, subfolder="vision_tower")
unet = UNet2DConditionModel.from_pretrained(FOLDER, subfolder="unet")
vae = AutoencoderKL.from_pretrained(FOLDER, subfolder="vae")
"""
GROUPS = ("condition", "unet", "autoencoder")


def tower_entries(vision: SiglipConfig) -> list[Entry]:
    return siglip(vision, "vision_model", "vision_tower/", "out_proj")


def dropped(vision: SiglipConfig) -> tuple[str, ...]:
    """Names of a tower that nothing here reads."""
    last = () if vision.features == "post_norm" else (r"vision_tower/post_layernorm\..*",)
    return (r"vision_tower/head\..*", *last)


def entries(shapes: Mapping[str, Shape]) -> list[Entry]:
    """Of those among the paths of a system that are of a visualiser."""
    found: list[Entry] = []
    for i in (1, 2):
        found += linear(f"condition/fc{i}", f"projector/layers.{i - 1}")
        found += norm(f"condition/norm{i}", f"projector/norms.{i - 1}")
    return found + painter_part.entries(shapes)


def write(
    directory: pathlib.Path, vision: TowerConfig, visualiser: VisualiserConfig | None
) -> None:
    """The small files of all folders.

    Raises:
      UserError: for a tower of another kind than the release's.
    """
    if not isinstance(vision, SiglipConfig):
        raise UserError(
            "model.vision", f"a tower of the kind {vision.kind!r}", "'siglip', as released",
            "This model cannot be exported.",
        )  # fmt: skip
    (directory / "vision_tower").mkdir()
    write_object(directory / "vision_tower" / "config.json", siglip_json(vision))
    if visualiser is not None:
        painter_part.write(directory, visualiser.painter)


def parts(visualiser_of) -> tuple[Part, ...]:
    """For `unijax import --part`.

    Args:
      visualiser_of: from the config of a system to its visualiser's, or None.
    """

    def painter(config: Any):
        if (visualiser := visualiser_of(config)) is None:
            raise UserError(
                "--part", "a network of a visualiser", "a config with model.visualiser",
                "Give another config, or leave the part out.",
            )  # fmt: skip
        return visualiser.painter

    def tower(place: pathlib.Path, config: Any, notes: list[str]) -> given.Opened:
        return given.siglip(place, config.vision, notes)

    return (Part("siglip", given.SIGLIP, tower), *painter_part.parts(painter))


def their_features(vision: SiglipConfig, grid: int, weights: Source, pixels: np.ndarray) -> Any:
    """Features of pictures in -1..1 by transformers' tower and torch's interpolation [B, N, F]."""
    import torch
    import transformers
    from torch.nn import functional

    keys = transformers.SiglipVisionConfig(**siglip_json(vision), attn_implementation="eager")
    tower = transformers.SiglipVisionModel(keys)
    tower = loaded(tower, weights, "vision_tower/", ("post_layernorm", "embeddings.position_ids"))
    with torch.no_grad():
        seen = tower(
            pixel_values=torch.from_numpy(np.moveaxis(pixels, -1, 1).copy()),
            output_hidden_states=True,
        )
        last = seen.last_hidden_state if vision.features == "post_norm" else seen.hidden_states[-1]
        side = round(last.shape[1] ** 0.5)
        square = last.reshape(len(pixels), side, side, -1).permute(0, 3, 1, 2)
        pooled = functional.interpolate(
            square, size=(grid, grid), mode="bilinear", align_corners=False
        )
        return functional.normalize(pooled.flatten(2).transpose(1, 2), p=2, dim=-1)


def their_condition(visualiser: VisualiserConfig, weights: Source, features: Any) -> Any:
    """Features as the U-Net reads them, by the release's projector [B, M, K]."""
    import torch

    widths = (
        features.shape[-1], visualiser.hidden, visualiser.painter.unet.cross_attention_dim
    )  # fmt: skip
    module = torch.nn.Module()
    pairs = list(itertools.pairwise(widths))
    module.layers = torch.nn.ModuleList([torch.nn.Linear(a, b) for a, b in pairs])
    module.norms = torch.nn.ModuleList([torch.nn.LayerNorm(b) for _, b in pairs])
    module = loaded(module, weights, "projector/")
    with torch.no_grad():
        x = torch.relu(module.norms[0](module.layers[0](features)))
        x = module.norms[1](module.layers[1](x))
        return torch.nn.functional.pad(x, (0, 0, 0, visualiser.tokens - x.shape[1]))

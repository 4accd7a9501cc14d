"""MetaMorph's visualiser alone, in folders as they stand beside an exported MetaMorph."""

import functools
import pathlib
from typing import Any

import jax
import numpy as np
from jax import Array

from unijax.core.json_files import write_object
from unijax.core.record import build, to_json
from unijax.core.system import Params
from unijax.interop import painter_part, visualiser_part
from unijax.interop.config_parts import model_type, read_config
from unijax.interop.folders import FoldersWriter, open_folders
from unijax.interop.interface import Comparison, Export, Format, Interop, Outputs
from unijax.interop.opening import ForeignModel, abstract_params
from unijax.interop.painter_part import Pictures
from unijax.interop.parts import tower_size, tower_widths
from unijax.interop.plain_sizes import check_limits
from unijax.interop.table import Table
from unijax.systems.visualiser import Visualiser, VisualiserSystemConfig

_KIND = "metamorph_visualiser"
_ABOUT = (
    "A diffusion model that paints what features of a vision tower show: the visualiser of "
    "MetaMorph ([2412.14164](https://arxiv.org/abs/2412.14164))."
)


def _read_config(directory: pathlib.Path, notes: list[str], like: Any) -> VisualiserSystemConfig:
    del notes, like
    path, content = directory / "config.json", read_config(directory)
    check_limits(content.get("model"), f"{path}: model")
    return build(VisualiserSystemConfig, content.get("model"), f"{path}: model")


def _table(config: VisualiserSystemConfig, directory: pathlib.Path) -> Table:
    del directory
    shapes = {p: a.shape for p, a in abstract_params("visualiser", config).items()}
    entries = [
        *visualiser_part.tower_entries(config.vision),
        *visualiser_part.entries(shapes),
    ]
    return Table(tuple(entries), dropped=visualiser_part.dropped(config.vision))


def _write(export: Export) -> dict[str, str]:
    c, directory = export.config, export.directory
    content = {"model_type": _KIND, "torch_dtype": export.dtype, "model": to_json(c, whole=True)}
    write_object(directory / "config.json", content)
    visualiser_part.write(directory, c.vision, c.visualiser)
    return {}


def _prompts(
    config: VisualiserSystemConfig, directory: pathlib.Path, rng: np.random.Generator
) -> Pictures:
    del directory
    return painter_part.pictures(config.vision.image_size, config.visualiser.painter, rng)


def _ours(
    config: VisualiserSystemConfig, params: Params, shown: Pictures, theirs: Outputs
) -> Outputs:
    return jax.device_get(_forward(config, params, shown, theirs["features"]))


@functools.partial(jax.jit, static_argnums=0)
def _forward(
    config: VisualiserSystemConfig, params: Params, shown: Pictures, features: Array
) -> dict[str, Array]:
    system = Visualiser(config)
    condition = system.conditioned(params, features)
    out = {"features": system.encode_features(params, shown.pixels), "condition": condition}
    return out | painter_part.ours(system.painter, params, shown, condition)


def _theirs(model: ForeignModel, shown: Pictures) -> Outputs:
    c, weights = model.config, model.weights
    features = visualiser_part.their_features(c.vision, c.grid, weights, shown.pixels)
    condition = visualiser_part.their_condition(c.visualiser, weights, features).numpy()
    found = {"features": features.numpy(), "condition": condition}
    return found | painter_part.theirs(model.directory, shown, condition)


INTEROP = Interop(
    "visualiser",
    (
        Format(
            "metamorph",
            f"model_type {_KIND!r}",
            matches=lambda directory: model_type(directory) == _KIND,
            read_config=_read_config,
            table=_table,
            write=_write,
            loads="transformers and diffusers",
            use=f"```python\n{visualiser_part.USE}```",
            package="diffusers",
            weights=lambda directory: open_folders(directory, visualiser_part.FOLDERS),
            writer=functools.partial(FoldersWriter, visualiser_part.FOLDERS),
            tied=None,
        ),
    ),
    Comparison(_prompts, _theirs, _ours),
    _ABOUT,
    lambda config: tower_size(config.vision),
    parts=visualiser_part.parts(lambda config: config.visualiser),
    stacks=lambda config: {"vision_model/": config.vision.num_hidden_layers},
    widths=lambda config: tower_widths(config.vision),
    task="image-to-image",
    unsaid=("dropout",),
)

"""A painter's networks as a pipeline of diffusers has them: folders `unet`, `vae`, `scheduler`."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from unijax.core.json_files import write_object
from unijax.core.system import Params
from unijax.interop import diffusers_parts
from unijax.interop.diffusers_configs import config_json
from unijax.interop.diffusers_parts import STEM
from unijax.interop.diffusers_scheduler import FILE, scheduler_json
from unijax.interop.folders import Folder
from unijax.interop.given import Opened
from unijax.interop.interface import Part
from unijax.interop.opening import check_same
from unijax.interop.rows import ROWS
from unijax.interop.table import Entry, Shape, Table
from unijax.systems.painter import Painter, PainterConfig

FOLDERS = (Folder("unet/", "unet", STEM), Folder("vae/", "vae", STEM))
_TIMESTEPS = np.array([3.0, 700.0], np.float32)
_GROUPS = {"unet": ("unet/", "UNet2DConditionModel"), "autoencoder": ("vae/", "AutoencoderKL")}


def entries(shapes: Mapping[str, Shape]) -> list[Entry]:
    """Of those among the paths of a system that are of a painter."""
    found = []
    for group, (prefix, name) in _GROUPS.items():
        start = f"{group}/"
        own = {p.removeprefix(start): s for p, s in shapes.items() if p.startswith(start)}
        found += diffusers_parts.entries(name, own, start, prefix)
    return found


def write(directory: pathlib.Path, config: PainterConfig) -> None:
    """config.json of both networks, and the scheduler's."""
    for folder, sizes in (("unet", config.unet), ("vae", config.autoencoder)):
        (directory / folder).mkdir()
        write_object(directory / folder / "config.json", config_json(sizes))
    (directory / "scheduler").mkdir()
    sampler = Painter(config).sampler_of(config.steps)
    write_object(directory / "scheduler" / FILE, scheduler_json(sampler))


def _opened(place: pathlib.Path, group: str, expected: Any, ignore: tuple[str, ...]) -> Opened:
    found, table, weights = diffusers_parts.opened(place)
    check_same(str(place), found, expected, ignore)
    own = [Entry((f"{group}/{e.ours[0]}",), e.theirs, e.transform) for e in table.entries]
    return Table(tuple(own)), weights


def parts(painter_of) -> tuple[Part, ...]:
    """For `unijax import --part`.

    Args:
      painter_of: from the config of a system to its painter's.
    """

    def unet(place: pathlib.Path, config: Any, notes: list[str]) -> Opened:
        del notes
        return _opened(place, "unet", painter_of(config).unet, ())

    def autoencoder(place: pathlib.Path, config: Any, notes: list[str]) -> Opened:
        del notes
        ignore = ("image_size", "scaling_factor", "shift_factor")  # the config's
        return _opened(place, "autoencoder", painter_of(config).autoencoder, ignore)

    return (
        Part("unet", "a directory of a diffusers UNet2DConditionModel", unet),
        Part("vae", "a directory of a diffusers AutoencoderKL", autoencoder),
    )


class Pictures(NamedTuple):
    """What a comparison shows: pixels in -1..1 of the tower's size and of the autoencoder's, and
    noised latents, channels last."""

    pixels: np.ndarray | Array
    picture: np.ndarray | Array
    noised: np.ndarray | Array


def pictures(size: int, painter: PainterConfig | None, rng: np.random.Generator) -> Pictures:
    """At random. Where nothing paints, what a painter would see is of one pixel."""
    side, grid, channels = 1, 1, 1
    if painter is not None:
        ae = painter.autoencoder
        side, grid, channels = ae.image_size, ae.grid, ae.latent_channels
    uniform = lambda n: rng.uniform(-1, 1, (ROWS, n, n, 3)).astype(np.float32)  # noqa: E731
    noised = rng.standard_normal((ROWS, grid, grid, channels), np.float32)
    return Pictures(uniform(size), uniform(side), noised)


def ours(painter: Painter, params: Params, shown: Pictures, condition: Array) -> dict[str, Array]:
    """Outputs of our networks, as `theirs` has them."""
    ae = {"params": params["autoencoder"]}
    return {
        "noise": painter.predict(params, shown.noised, jnp.asarray(_TIMESTEPS), condition),
        "latents": painter.encode_latents(params, shown.picture),
        "decoded": painter.autoencoder.apply(ae, shown.noised, method="decode"),
    }


def theirs(
    directory: pathlib.Path, shown: Pictures, condition: np.ndarray
) -> dict[str, np.ndarray]:
    """Outputs of diffusers' networks in a directory, channels last.

    Args:
      condition: [B, M, K].
    """
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    def first(x: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.moveaxis(x, -1, 1).copy())

    unet = UNet2DConditionModel.from_pretrained(directory / "unet", low_cpu_mem_usage=False)
    vae = AutoencoderKL.from_pretrained(directory / "vae", low_cpu_mem_usage=False)
    with torch.no_grad():
        told = torch.from_numpy(_TIMESTEPS), torch.from_numpy(condition)
        noise = unet.float().eval()(first(shown.noised), *told).sample
        latents = vae.float().eval().encode(first(shown.picture)).latent_dist.mean
        decoded = vae.decode(first(shown.noised)).sample
    out = {"noise": noise, "latents": latents * vae.config.scaling_factor, "decoded": decoded}
    return {name: x.movedim(1, -1).float().numpy() for name, x in out.items()}

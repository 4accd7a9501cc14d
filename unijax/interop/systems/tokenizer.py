"""Image autoencoders: KL as diffusers' `AutoencoderKL`, VQ as transformers' `JanusVQVAE`.

What training alone needs, discriminator and perceptual network, has no place in either.
"""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import numpy as np

from unijax.core.json_files import write_object
from unijax.core.system import Params
from unijax.interop import diffusers_configs, diffusers_parts
from unijax.interop.config_files import janus_vq_json
from unijax.interop.config_parts import (
    DROPOUT,
    JANUS_VQ,
    check_janus_vq,
    janus_vq_config,
    model_type,
    read_config,
)
from unijax.interop.interface import Comparison, Export, Format, Interop, Outputs
from unijax.interop.opening import ForeignModel
from unijax.interop.parts import HF_VQ, vq, vq_widths
from unijax.interop.rows import ROWS
from unijax.interop.safetensors_writer import SafetensorsWriter
from unijax.interop.sections import SIDE, Section
from unijax.interop.sources import open_directory
from unijax.interop.table import Entry, Table
from unijax.models.autoencoder import AutoencoderConfig
from unijax.systems.tokenizer import Tokenizer, TokenizerConfig

_ABOUT = "An image autoencoder, trained as the config below says."
_KL_USE = """\
```python
from diffusers import AutoencoderKL

autoencoder = AutoencoderKL.from_pretrained(FOLDER)
```"""
_VQ_USE = """\
Codes are found among rows of length 1 (arXiv 2406.06525): scale the codebook and the latents of
`encode` to it. `decode` does so itself.

```python
from transformers import JanusVQVAE

tokenizer = JanusVQVAE.from_pretrained(FOLDER)
```"""


def _with(like: TokenizerConfig | None, **network: Any) -> TokenizerConfig:
    """An autoencoder in a config; without one, nothing trains it."""
    if like is not None:
        return dataclasses.replace(like, **network)
    return TokenizerConfig(**network, perceptual_weight=0.0)


# KL


def _is_kl(directory: pathlib.Path) -> bool:
    path = directory / "config.json"
    return path.exists() and read_config(directory).get("_class_name") == "AutoencoderKL"


def _read_kl(directory: pathlib.Path, notes: list[str], like: Any) -> TokenizerConfig:
    del notes
    return _with(like, kl=diffusers_configs.read_config(directory))


def _kl_table(config: TokenizerConfig, directory: pathlib.Path) -> Table:
    del directory
    own = diffusers_parts.table(config.kl).entries
    return Table(tuple(Entry((f"generator/{e.ours[0]}",), e.theirs, e.transform) for e in own))


def _write_kl(export: Export) -> dict[str, str]:
    write_object(export.directory / "config.json", diffusers_configs.config_json(export.config.kl))
    return {}


# VQ


def _read_vq(directory: pathlib.Path, notes: list[str], like: Any) -> TokenizerConfig:
    where = str(directory / "config.json")
    q = Section(where, read_config(directory), JANUS_VQ)
    q.classes("JanusVQVAE")
    found = janus_vq_config(q, q.whole("num_patches", SIDE))
    check_janus_vq(found, where)
    # Of the adaptors of a whole model, which is not here.
    adaptors = ("projection_dim", "num_hidden_layers", "hidden_act", "image_token_embed_dim")
    notes += q.unknown((*DROPOUT, *adaptors))
    return _with(like, vq=found)


def _vq_table(config: TokenizerConfig, directory: pathlib.Path) -> Table:
    del directory
    return Table(tuple(vq(config.vq, "generator", "", HF_VQ)))


def _write_vq(export: Export) -> dict[str, str]:
    content = {"architectures": ["JanusVQVAE"], "dtype": export.dtype}
    write_object(export.directory / "config.json", content | janus_vq_json(export.config.vq))
    return {}


# What is compared


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Pictures in -1..1 to encode, and codes [B, N] or latents [B, h, w, c] to decode."""

    pixels: np.ndarray
    coded: np.ndarray


def _prompts(config: TokenizerConfig, directory: pathlib.Path, rng: np.random.Generator) -> Prompts:
    del directory
    size = config.image_size
    pixels = rng.uniform(-1, 1, (ROWS, size, size, 3)).astype(np.float32)
    if config.vq is not None:
        return Prompts(
            pixels, rng.integers(0, config.vq.num_embeddings, (ROWS, config.vq.num_tokens))
        )
    shape = (ROWS, config.kl.grid, config.kl.grid, config.kl.latent_channels)
    return Prompts(pixels, rng.standard_normal(shape, dtype=np.float32))


def _ours(config: TokenizerConfig, params: Params, given: Prompts, theirs: Outputs) -> Outputs:
    del theirs
    network, with_vq = Tokenizer(config).generator, config.vq is not None

    @jax.jit
    def both(params, pixels, coded):
        encoded = network.apply(params, pixels, method="encode_latents" if with_vq else "encode")
        latents = encoded if with_vq else encoded.mean
        return {"latents": latents, "decoded": network.apply(params, coded, method="decode")}

    return jax.device_get(both({"params": params["generator"]}, given.pixels, given.coded))


def _theirs(model: ForeignModel, given: Prompts) -> Outputs:
    """Latents [B, N, d] (VQ) or [B, h, w, c] (KL) of the pictures, and what is decoded."""
    import torch

    pixels = torch.from_numpy(given.pixels.transpose(0, 3, 1, 2).copy())
    last = lambda x: x.movedim(1, -1)  # noqa: E731
    with torch.no_grad():
        if model.config.vq is not None:
            import transformers

            transformers.utils.logging.disable_progress_bar()
            network = transformers.JanusVQVAE.from_pretrained(
                model.directory, dtype=torch.float32, local_files_only=True
            ).eval()
            latents = last(network.quant_conv(network.encoder(pixels))).flatten(1, 2)
            decoded = network.decode(torch.from_numpy(given.coded))
        else:
            import diffusers

            network = diffusers.AutoencoderKL.from_pretrained(
                model.directory, torch_dtype=torch.float32, local_files_only=True
            ).eval()
            latents = last(network.encode(pixels).latent_dist.mean)
            coded = torch.from_numpy(np.moveaxis(given.coded, -1, 1).copy())
            decoded = network.decode(coded).sample
    return {"latents": latents.numpy(), "decoded": last(decoded).numpy()}


def _widths(config: TokenizerConfig) -> dict[str, int]:
    if config.vq is not None:
        return vq_widths(config.vq)
    return {"channels of the autoencoder": max(config.kl.block_out_channels)}


def _sizes(config: TokenizerConfig) -> dict[str, str]:
    if config.vq is not None:
        q = config.vq
        kind = f"VQ, {q.num_embeddings:,} codes, {q.num_tokens} of a picture"
    else:
        c: AutoencoderConfig = config.kl
        kind = f"KL, {c.grid} x {c.grid} x {c.latent_channels} latents of a picture"
    return {"autoencoder": kind, "pictures": f"{config.image_size} px"}


def _format(name: str, kind: str, **how: Any) -> Format:
    return Format(name, kind, may_lack=("discriminator/", "perceptual/"), tied=None, **how)


INTEROP = Interop(
    "tokenizer",
    (
        _format(
            "diffusers",
            "_class_name 'AutoencoderKL'",
            matches=_is_kl,
            read_config=_read_kl,
            table=_kl_table,
            write=_write_kl,
            weights=functools.partial(open_directory, stem=diffusers_parts.STEM),
            writer=functools.partial(SafetensorsWriter, stem=diffusers_parts.STEM),
            fits=lambda config: config.kl is not None,
            loads="diffusers' AutoencoderKL",
            use=_KL_USE,
            package="diffusers",
        ),
        _format(
            "hf",
            "model_type 'janus_vqgan'",
            matches=lambda directory: model_type(directory) == "janus_vqgan",
            read_config=_read_vq,
            table=_vq_table,
            write=_write_vq,
            fits=lambda config: config.vq is not None,
            loads="JanusVQVAE",
            use=_VQ_USE,
            package="transformers",
        ),
    ),
    Comparison(_prompts, _theirs, _ours),
    _ABOUT,
    _sizes,
    widths=_widths,
    task="image-to-image",
)

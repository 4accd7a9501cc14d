"""Ladders of MetaQuery: micro decoders, and a Sana that grows with them, over the shipped parts."""

from unijax.core.ladder import Ladder, Rung
from unijax.models import autoencoder
from unijax.models.connector import ConnectorConfig
from unijax.models.sana import SanaConfig
from unijax.systems import micro
from unijax.systems.metaquery import MetaQueryConfig

KL = autoencoder.SIZES["kl_demo"]
QUERIES = 16
MARKS = (4, 5)  # begin and end of image of the shipped tokenizer


def generator(width: int) -> SanaConfig:
    """A Sana of a width, of heads of 16, over the latents of the shipped autoencoder."""
    heads = width // 16
    return SanaConfig(KL.grid, KL.latent_channels, KL.latent_channels, max(2, width // 32), heads,
                      16, heads, 16, width)  # fmt: skip


def _micro(width: int) -> Rung:
    text, name, words = micro.decoder(width)
    layers = max(2, width // 64)
    config = MetaQueryConfig(
        text, micro.VISION, resize="pad", begins=True, queries=QUERIES, marks=MARKS,
        connector=ConnectorConfig(width, width, layers, 16), generator=generator(width),
        autoencoder=KL,
    )  # fmt: skip
    more = f"Sana of the decoder's width and layers; connector of {layers} layers"
    return Rung(name, "metaquery", config, f"{words}; {more}")


LADDERS = {"metaquery_micro": Ladder(_micro, micro.WIDTHS, micro.MULTIPLE)}

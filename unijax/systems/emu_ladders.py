"""Ladders of Emu: micro decoders over the shipped vision tower, with eight vectors a picture."""

from unijax.core.ladder import Ladder, Rung
from unijax.models.cformer import CFormerConfig
from unijax.systems import micro
from unijax.systems.emu import EmuConfig

CFORMER = CFormerConfig(8, 64, 256, 2, 4, 16)


def _micro(width: int) -> Rung:
    text, name, words = micro.decoder(width)
    return Rung(name, "emu", EmuConfig(text, micro.VISION, CFORMER), words)


LADDERS = {"emu_micro": Ladder(_micro, micro.WIDTHS, micro.MULTIPLE)}

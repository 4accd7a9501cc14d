"""Ladders of MetaMorph: micro decoders over the shipped vision tower, in 16 features a picture."""

from unijax.core.ladder import Ladder, Rung
from unijax.systems import micro
from unijax.systems.metamorph import MetaMorphConfig

GRID = 4


def _micro(width: int) -> Rung:
    text, name, words = micro.decoder(width)
    return Rung(name, "metamorph", MetaMorphConfig(text, micro.VISION, grid=GRID), words)


LADDERS = {"metamorph_micro": Ladder(_micro, micro.WIDTHS, micro.MULTIPLE)}

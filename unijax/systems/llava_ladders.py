"""Ladders of LLaVA: micro decoders over the shipped tower."""

from unijax.core.ladder import Ladder, Rung
from unijax.systems import micro
from unijax.systems.llava import LlavaConfig


def _micro(width: int) -> Rung:
    text, name, words = micro.decoder(width)
    return Rung(name, "llava", LlavaConfig(text, micro.VISION, resize="pad", begins=True), words)


LADDERS = {"llava_micro": Ladder(_micro, micro.WIDTHS, micro.MULTIPLE)}

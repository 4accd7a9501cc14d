"""Ladders of Chameleon: micro sizes."""

import dataclasses

from unijax.core.ladder import Ladder, Rung
from unijax.systems import micro
from unijax.systems.chameleon import ChameleonConfig


def _micro(width: int) -> Rung:
    text, name, words = micro.decoder(width)
    first = text.vocab_size
    text = dataclasses.replace(
        text, vocab_size=first + micro.VQ.num_embeddings, qk_norm="layer_norm", norm_order="post"
    )
    return Rung(name, "chameleon", ChameleonConfig(text, micro.VQ, first), words)


LADDERS = {"chameleon_micro": Ladder(_micro, micro.WIDTHS, micro.MULTIPLE)}

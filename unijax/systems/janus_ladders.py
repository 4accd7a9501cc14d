"""Ladders of Janus: the published sizes (table 1 of the Janus-Pro report), and micro ones."""

from unijax.core.ladder import Ladder, Rung
from unijax.systems import micro
from unijax.systems.janus import SIZES, JanusConfig

PRO = {2048: ("1.5B", "janus_pro_1b"), 4096: ("7B", "janus_pro_7b")}


def _pro(width: int) -> Rung:
    name, size = PRO[width]
    text = SIZES[size].text
    words = (
        f"layers {text.num_hidden_layers}, heads {text.num_attention_heads}, "
        f"MLP {text.intermediate_size} (table 1)"
    )
    return Rung(name, "janus", SIZES[size], words)


def _micro(width: int) -> Rung:
    text, name, words = micro.decoder(width)
    return Rung(name, "janus", JanusConfig(text, micro.VISION, micro.VQ), words)


LADDERS = {
    "janus_pro": Ladder(_pro, tuple(PRO)),
    "micro": Ladder(_micro, micro.WIDTHS, micro.MULTIPLE),
}

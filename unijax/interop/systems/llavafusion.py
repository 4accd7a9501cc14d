"""LLaVAFusion takes parts in: the frozen model whole, and an autoencoder.

It has no form to go out in yet: no code elsewhere runs a tower and twins together.
"""

import pathlib

from unijax.data.tokenizer import Tokenizer
from unijax.interop import given
from unijax.interop.interface import Interop, Part
from unijax.interop.parts import llama_size, tower_size
from unijax.interop.registry import part_of
from unijax.interop.systems import llava, lmfusion
from unijax.systems.llavafusion import LLaVAFusionConfig

_ABOUT = (
    "LLaVAFusion: a model that reads pictures and draws by layers of its own for those "
    "([2412.15188](https://arxiv.org/abs/2412.15188))."
)


def _base(place: pathlib.Path, config: LLaVAFusionConfig, notes: list[str]) -> given.Opened:
    """The frozen model; the twin begins as a copy of its decoder."""
    return lmfusion.with_twin("llavafusion", config, *llava.part(place, config, notes))


def _conversations(tokenizer: Tokenizer) -> dict:
    """Turns of the base that the tokenizer is of."""
    of_llama = "<|start_header_id|>" in tokenizer.tokens
    return {"template": "llama3" if of_llama else "llava_onevision"}


INTEROP = Interop(
    "llavafusion",
    (),
    None,
    _ABOUT,
    sizes=lambda config: llama_size(config.text) | tower_size(config.vision),
    parts=(
        Part("base", "a directory of LLaVA-NeXT or LLaVA-OneVision", _base, has_tokenizer=True),
        part_of(lmfusion.INTEROP, "autoencoder"),
    ),
    conversations=_conversations,
)

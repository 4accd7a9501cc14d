"""Size ladders: a model for each value of one dial, the width of the decoder.

`transfusion`: table 2 of arXiv 2408.11039; hidden sizes of the MLP by Llama's rule. `janus_pro`:
table 1 of the Janus-Pro report. `micro`: ours, for CPUs: heads of 16, a layer for every 32 of
width (at least two), the MLP 8/3 of the width rounded up to 16, with the shipped encoders.
"""

import dataclasses
from collections.abc import Callable

from unijax.core.errors import UserError
from unijax.models import llama
from unijax.models.llama import LlamaConfig
from unijax.models.siglip import SiglipConfig
from unijax.models.vqgan import VQConfig
from unijax.systems import janus
from unijax.systems.janus import JanusConfig


@dataclasses.dataclass(frozen=True)
class ImageLayers:
    """Transfusion's linear image layers: patch vectors in and out, and the time of the noise.

    Section 3 and footnote 6 of the paper; that the embedder of the time has the decoder's width is
    derived from the parameters it reports (its table 7).
    """

    patch_values: int = 32  # 2 x 2 latents of 8 channels
    time_features: int = 256

    def count_parameters(self, width: int) -> int:
        """Two linear layers, and the two layers of the time's embedder, all with biases."""
        v, t = self.patch_values, self.time_features
        return (v + 1) * width + (width + 1) * v + (t + 1) * width + (width + 1) * width

    def flops_per_token(self, width: int) -> tuple[int, int]:
        """Forward, in and out; the time is embedded once an image and not counted."""
        return 2 * self.patch_values * width, 2 * self.patch_values * width


@dataclasses.dataclass(frozen=True)
class Rung:
    """One model of a ladder.

    Attributes:
      name: as in the paper, or by its parameters.
      text: the decoder.
      system: the whole Janus, or Transfusion's image layers.
      arithmetic: how the dial made the sizes, in words.
    """

    name: str
    text: LlamaConfig
    system: JanusConfig | ImageLayers
    arithmetic: str


def _up(value: float, multiple: int) -> int:
    return -int(-value // multiple) * multiple


TRANSFUSION = {768: "0.16B", 1024: "0.37B", 1536: "0.76B", 2048: "1.4B", 4096: "7B"}
JANUS_PRO = {2048: ("1.5B", "janus_pro_1b"), 4096: ("7B", "janus_pro_7b")}
MICRO = (32, 48, 64, 80, 96, 128, 160)

# The encoders of configs/siglip_demo.py and configs/vq_demo.py, and the shipped tokenizer's ids.
SHIPPED_VISION = SiglipConfig(64, 8, 128, 512, 4, 4)
SHIPPED_VQ = VQConfig(64, 32, (1, 1, 1, 4), 0, 64, 8, 2048)
SHIPPED_VOCABULARY = 4096


def transfusion(width: int) -> Rung:
    """Vocabulary: Llama-2's 32,000 and begin and end of image."""
    name = TRANSFUSION[width]
    text = llama.SIZES[f"transfusion_{name.lower()}"]
    words = (
        f"layers {text.num_hidden_layers}, heads {text.num_attention_heads} (table 2); "
        f"MLP 8/3 x {width} = {8 * width / 3:.0f}, up to a multiple of 256: "
        f"{text.intermediate_size}"
    )
    return Rung(name, text, ImageLayers(), words)


def janus_pro(width: int) -> Rung:
    """The published sizes."""
    name, size = JANUS_PRO[width]
    config = janus.SIZES[size]
    text = config.text
    words = (
        f"layers {text.num_hidden_layers}, heads {text.num_attention_heads}, "
        f"MLP {text.intermediate_size} (table 1)"
    )
    return Rung(name, text, config, words)


def micro(width: int) -> Rung:
    """A Janus for CPUs; any multiple of 16."""
    layers, heads, hidden = max(2, width // 32), width // 16, _up(8 * width / 3, 16)
    text = LlamaConfig(SHIPPED_VOCABULARY, width, hidden, layers, heads, heads, 16)
    name = f"{text.count_parameters()['layers'] / 1e6:.2f}M"
    words = (
        f"layers max(2, {width} / 32) = {layers}, heads {width} / 16 = {heads}, "
        f"MLP 8/3 x {width} = {8 * width / 3:.0f}, up to a multiple of 16: {hidden}"
    )
    return Rung(name, text, JanusConfig(text, SHIPPED_VISION, SHIPPED_VQ), words)


LADDERS: dict[str, tuple[Callable[[int], Rung], tuple[int, ...]]] = {
    "transfusion": (transfusion, tuple(TRANSFUSION)),
    "janus_pro": (janus_pro, tuple(JANUS_PRO)),
    "micro": (micro, MICRO),
}


def rung(ladder: str, width: int) -> Rung:
    """The model of a ladder at a width.

    Raises:
      UserError: for a ladder or a width that is not there.
    """
    if ladder not in LADDERS:
        raise UserError("ladder", repr(ladder), f"one of {sorted(LADDERS)}", "Choose one.")
    make, widths = LADDERS[ladder]
    if ladder == "micro":
        if width < 16 or width % 16:
            raise UserError("micro width", f"{width}", "a multiple of 16", "Change it.")
    elif width not in widths:
        raise UserError(f"{ladder} width", f"{width}", f"one of {list(widths)}", "Choose one.")
    return make(width)


def ladder(name: str) -> list[Rung]:
    """All rungs, from small to large."""
    if name not in LADDERS:
        raise UserError("ladder", repr(name), f"one of {sorted(LADDERS)}", "Choose one.")
    make, widths = LADDERS[name]
    return [make(width) for width in widths]

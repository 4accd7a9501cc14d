"""The micro ladder: decoders for CPUs, with the encoders that this project ships.

Heads of 16, a layer for every 32 of width (at least two), the MLP 8/3 of the width rounded up to
16; any multiple of 16.
"""

from unijax.core.ladder import up
from unijax.models.eva import EvaConfig
from unijax.models.llama import LlamaConfig
from unijax.models.siglip import SiglipConfig
from unijax.models.vqgan import VQConfig
from unijax.nn.encoder import SWIGLU

WIDTHS = (32, 48, 64, 80, 96, 128, 160)
MULTIPLE = 16
# The encoders of configs/siglip_demo.py and configs/vq_demo.py, and the shipped tokenizer's ids.
EVA = EvaConfig(  # configs/mim_demo.py
    128, 341, 4, 4, image_size=64, patch_size=8, hidden_act=SWIGLU, rope_grid=8, mlp_norm=True
)
VISION = SiglipConfig(64, 8, 128, 512, 4, 4)
VQ = VQConfig(64, 32, (1, 1, 1, 4), 0, 64, 8, 2048)
VOCABULARY = 4096


def decoder(width: int) -> tuple[LlamaConfig, str, str]:
    """The decoder, its name, and its arithmetic in words."""
    layers, heads, hidden = max(2, width // 32), width // 16, up(8 * width / 3, 16)
    text = LlamaConfig(VOCABULARY, width, hidden, layers, heads, heads, 16)
    words = (
        f"layers max(2, {width} / 32) = {layers}, heads {width} / 16 = {heads}, "
        f"MLP 8/3 x {width} = {8 * width / 3:.0f}, up to a multiple of 16: {hidden}"
    )
    return text, f"{text.count_parameters()['layers'] / 1e6:.2f}M", words

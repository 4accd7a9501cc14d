"""Chameleon: the baseline of Transfusion's paper, 0.16B to 7B, and the published 7B and 34B.

Reproduces, for `0.16b` to `7b`: arXiv 2408.11039, section 4.1 to 4.2: the decoder and the data of
configs/transfusion.py, images as 1024 codes of a tokenizer with 16,384 entries of 8 numbers, which
is the autoencoder's network with a codebook in place of the KL term, norms of queries and keys,
norms behind attention and MLP, a z-loss, a learning rate of 1e-4.

For `chameleon_7b` and `chameleon_34b`: arXiv 2405.09818, table 1 and section 2.2 to 2.3: sizes,
context 4096, dropout 0.1 or none, z-loss 1e-5, AdamW (0.9, 0.95) with epsilon 1e-5, 1e-4 after
4,000 steps, exponential decay, weight decay 0.1, clipping at 1, 8M or 12M tokens a step, images of
512 pixels as 1024 of 8192 codes.

    unijax train --config configs/chameleon.py:0.76b --run-dir runs/chameleon
    unijax plan --config configs/chameleon.py:chameleon_34b

Our choices, where the papers are silent: a batch is counted in packed rows; documents of a row do
not see each other; a tenth of the captions is replaced by pad tokens, for guidance; of a quarter of
the captions the first sentence alone stands; the baseline's tokenizer is 256 wide where it is
projected onto 8 numbers; steps and data of the published sizes follow the baseline's; the decay of
these ends at a thousandth. The data is yours: every source is a JSONL file under data/
(docs/data.md has the format).
"""

import dataclasses
import pathlib

from ml_collections import ConfigDict

from unijax.core.errors import UserError
from unijax.main.config import load
from unijax.models import llama
from unijax.models.vqgan import VQConfig
from unijax.systems.chameleon import SIZES, ChameleonConfig

# Tokens of a step, published sizes: 2^23 and 3 x 2^22.
ROWS = {"chameleon_7b": 2048, "chameleon_34b": 3072}
BASELINES = ("0.16b", "0.37b", "0.76b", "1.4b", "7b")
HARDWARE = {"chameleon_7b": "h100:8*32", "chameleon_34b": "h100:8*64"}


def model(size: str) -> ChameleonConfig:
    """The sizes of the parts.

    Raises:
      UserError: a size that is none.
    """
    if size in SIZES:
        return SIZES[size]
    if size not in BASELINES:
        expected = f"one of {', '.join((*BASELINES, *SIZES))}"
        raise UserError(
            "configs/chameleon.py", repr(size), expected, "Correct what stands behind :."
        )
    text = llama.SIZES[f"transfusion_{size}"]
    # The network of the autoencoder that configs/transfusion.py has, with codes in place of noise.
    vq = VQConfig(
        256, 128, (1, 2, 4, 4), 2, 256, 8, 16384, coarse_attention=False, unit_codes=False
    )
    text = dataclasses.replace(
        text, vocab_size=text.vocab_size + vq.num_embeddings, qk_norm="layer_norm",
        norm_order="post",
    )  # fmt: skip
    return ChameleonConfig(text, vq, first_code=32002)


def get_config(size: str = "0.76b") -> ConfigDict:
    """`size` is 0.16b to 7b, chameleon_7b or chameleon_34b."""
    published, sizes = size in SIZES, model(size)
    transfusion = pathlib.Path(__file__).with_name("transfusion.py")
    config = load(f"{transfusion}:{'0.76b' if published else size},linear").unlock()
    paper = "2405.09818, table 1" if published else "2408.11039, section 4.2"
    config.reproduces = f"Chameleon, {size}: arXiv {paper}"
    config.system = "chameleon"
    config.model = ConfigDict(dataclasses.asdict(sizes))
    config.init = {"vqmodel": "data/vq.safetensors"}
    config.stage.rules = [{"pattern": "vqmodel/", "frozen": True}, {"pattern": ""}]
    main = config.stage.optimizers.main
    main.learning_rate = 1e-4
    if published:
        main.eps = 1e-5
        del main.final_share
        main.schedule, main.warmup_steps = "knots", 0
        main.knots = [
            {"step": 0, "share": 1 / 4000},
            {"step": 3999, "share": 1.0},
            {"step": -1, "share": 0.001, "curve": "exponential"},
        ]
        config.data.rows = ROWS[size]
        config.hardware = HARDWARE[size]
    config.data.slots = {"image": 4096 // (sizes.vq.num_tokens + 32)}
    return config.lock()

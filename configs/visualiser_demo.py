"""The painter of the small MetaMorph: 16 features of 128 to pictures of 64 pixels.

    unijax train --config configs/visualiser_demo.py --run-dir runs/visualiser

Reproduces nothing published: MetaMorph's visualiser in all its parts, small, over the shipped
vision tower and the shipped autoencoder, whose outputs are computed once. Our choices: sizes,
learning rate, the data (the shipped pictures), how often the features are dropped. It predicts v,
as configs/transfusion_demo.py does.
"""

import dataclasses

from ml_collections import ConfigDict

from unijax.models.autoencoder import SIZES
from unijax.models.unet import UNetConfig
from unijax.ops.diffusion import NoiseSchedule
from unijax.systems.features import VisualiserConfig
from unijax.systems.micro import VISION
from unijax.systems.painter import PainterConfig

# Two levels of 8 x 8 and 4 x 4 latents, each with attention to the features.
UNET = UNetConfig(8, 8, 8, (64, 64), 1, (True, True), cross_attention_dim=64, num_attention_heads=4)
PAINTER = PainterConfig(
    UNET, SIZES["kl_demo"], NoiseSchedule(), "v_prediction", drop=0.1, sampler="ddim", steps=25,
    guidance=1.0,
)  # fmt: skip
VISUALISER = VisualiserConfig(PAINTER, hidden=256, tokens=16)
GRID = 4


def get_config(arg: str = "") -> ConfigDict:
    """Takes no argument."""
    config = ConfigDict()
    config.reproduces = "MetaMorph's visualiser, small"
    config.system = "visualiser"
    config.model = {
        "vision": dataclasses.asdict(VISION),
        "visualiser": dataclasses.asdict(VISUALISER),
        "grid": GRID,
    }
    config.tokenizer = ""
    config.init = {
        "vision_model": "assets/weights/siglip_demo.safetensors",
        "autoencoder": "assets/weights/kl_demo.safetensors",
    }
    config.cache_frozen = True
    config.seed = 0
    config.stage = {
        "name": "visualiser",
        "steps": 2400,
        "ema_decay": 0.995,
        "rules": [{"pattern": "(vision_model|autoencoder)/", "frozen": True}, {"pattern": ""}],
        "optimizers": {
            "main": {
                "learning_rate": 1e-3,
                "schedule": "cosine",
                "warmup_steps": 100,
                "b1": 0.9,
                "b2": 0.99,
                "weight_decay": 0.0,
                "clip_norm": 1.0,
            },
        },
    }
    emoji = {"name": "emoji", "task": "describe", "kind": "shipped", "path": "emoji"}
    config.data = {"sources": [emoji], "size": 64, "batch": 32}
    held = [{"name": "und", "ratio": 1.0, "sources": [{**emoji, "split": "validation"}]}]
    config.validation = {"batches": 2, "samples": 6, "groups": held}
    config.loop = {"log_every": 20, "eval_every": 400, "save_every": 400, "keep": 2}
    return config.lock()

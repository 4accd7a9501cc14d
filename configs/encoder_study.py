"""Which encoder a decoder of which size reads best: understanding at micro scale.

    python -m bench.encoder_study --dir runs/encoders          # all of it; repeat to go on
    unijax sweep --config configs/encoder_study.py:eva02 --dir runs/encoders/eva02

Janus with its understanding alone (configs/scaling_together.py:understanding), at three widths of
the micro ladder and three seeds, its tower frozen and one of

| name | what it was trained for | by |
|---|---|---|
| siglip | pictures beside their texts, sigmoid loss | the shipped one, configs/siglip_demo.py |
| eva02 | the features of siglip behind masks | configs/mim_demo.py |
| eva_clip | eva02 further, beside texts, softmax loss | configs/clip_demo.py |
| vq | to give the picture back from codes | the shipped one, configs/vq_demo.py |
| random | nothing: eva02 as it is initialised | - |

All see 64 patches of 64 pixels. With "_small" behind the name, minutes. Reproduces nothing
published.
"""

import dataclasses
import pathlib

from ml_collections import ConfigDict

from unijax.main.config import load
from unijax.models.semantic import CodesConfig
from unijax.models.vqgan import VQConfig
from unijax.systems import micro

ENCODERS = ("siglip", "eva02", "eva_clip", "vq", "random")
TOGETHER = str(pathlib.Path(__file__).with_name("scaling_together.py"))


def get_config(arg: str = "siglip") -> ConfigDict:
    """`arg`: one of ENCODERS, or that with _small."""
    name, small = arg.removesuffix("_small"), "_small" * arg.endswith("_small")
    if name not in ENCODERS:
        raise ValueError(f"{arg}: one of {ENCODERS}")
    config = load(f"{TOGETHER}:understanding{small}").unlock()
    config.reproduces = "nothing: a study of encoders beside micro models"
    config.stage.name = name
    if name == "vq":
        tower = CodesConfig(VQConfig(**config.model.vq))
        config.model.vision = dataclasses.asdict(tower)
        config.init = {
            "vision_model/vqmodel": "assets/weights/vq_demo.safetensors:vqmodel",
            "vqmodel": ":vision_model/vqmodel",
        }
    elif name != "siglip":
        tower = dataclasses.replace(micro.EVA, attention_norm=name == "eva_clip")
        config.model.vision = dataclasses.asdict(tower)
        begins = {"eva02": "runs/encoders/mim", "eva_clip": "runs/encoders/clip"}
        config.init.vision_model = begins.get(name, "")
        if name == "random":
            del config.init.vision_model
    return config.lock()


def get_sweep(arg: str = "siglip") -> ConfigDict:
    """Three sizes, three seeds."""
    small = arg.endswith("_small")
    sweep = load(f"{TOGETHER}:understanding{'_small' * small}", "get_sweep").unlock()
    sweep.widths = (32, 64) if small else (32, 64, 128)
    return sweep.lock()

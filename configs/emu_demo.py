"""An Emu of 5M parameters, trained from scratch on two CPU cores in minutes.

    make gallery                                    # beside the other systems, on the same pictures
    unijax train --config configs/emu_demo.py --run-dir runs/emu

Reproduces nothing published: the decoder and the data of configs/janus_demo.py, over the shipped
vision tower in eight vectors a picture, and a painter over the latents of the shipped autoencoder.
The demo trains all at once. Emu's stages one after another:

    unijax train --config configs/emu_demo.py:pretrain --run-dir runs/emu_1
    unijax train --config configs/emu_demo.py:painter --run-dir runs/emu_2    # from runs/emu_1
    unijax train --config configs/emu_demo.py:instruct --init-from runs/emu_1 --run-dir runs/emu_3
"""

import dataclasses
import pathlib

from ml_collections import ConfigDict

from unijax.main.config import load
from unijax.models.autoencoder import SIZES
from unijax.models.cformer import CFormerConfig
from unijax.models.unet import UNetConfig
from unijax.ops.diffusion import NoiseSchedule
from unijax.systems.micro import VISION
from unijax.systems.painter import PainterConfig

CFORMER = CFormerConfig(8, 128, 512, 2, 4, 32)
UNET = UNetConfig(
    8, 8, 8, (64, 64), 1, (True, True), cross_attention_dim=192, num_attention_heads=4
)
PAINTER = PainterConfig(
    UNET, SIZES["kl_demo"], NoiseSchedule(), "v_prediction", drop=0.1, sampler="ddim", steps=25,
    guidance=1.0, free="prompt",
)  # fmt: skip
GROUPS = ("language_model", "vision_model", "ln_visual", "cformer", "stu_regress_head")


def get_config(arg: str = "all") -> ConfigDict:
    """`arg` is a stage: pretrain, painter or instruct; or all at once."""
    config = load(str(pathlib.Path(__file__).with_name("janus_demo.py"))).unlock()
    config.system = "emu"
    config.model = {
        "text": config.model.text,
        "vision": dataclasses.asdict(VISION),
        "cformer": dataclasses.asdict(CFORMER),
    }
    tower = {"vision_model": "assets/weights/siglip_demo.safetensors"}
    latents = {"autoencoder": "assets/weights/kl_demo.safetensors"}
    frozen = {"pattern": "vision_model/", "frozen": True}
    config.cache_frozen = arg in ("pretrain", "instruct")
    config.stage.name = arg
    config.stage.steps = 2000
    config.data.slots = {"image": 20}
    config.loop.eval_every = config.loop.save_every = 1000
    if arg in ("all", "painter"):
        config.model.painter = dataclasses.asdict(PAINTER)
    if arg == "all":
        config.init = tower | latents
        config.stage.rules = [
            {"pattern": "(vision_model|autoencoder)/", "frozen": True}, {"pattern": ""}
        ]  # fmt: skip
    if arg == "pretrain":
        config.init = tower
        config.stage.rules = [frozen, {"pattern": ""}]
    if arg == "painter":
        config.init = dict.fromkeys(GROUPS, "runs/emu_1") | latents
        config.stage.rules = [{"pattern": "unet/"}, {"pattern": "", "frozen": True}]
        config.data.groups = [g for g in config.data.groups if g["name"] == "gen"]
        config.validation.groups = [g for g in config.validation.groups if g["name"] == "gen"]
    if arg == "instruct":
        config.init = {}
        config.model.regress_read = False
        adapter = {"pattern": "language_model/layers/self_attn/", "rank": 16, "alpha": 16.0}
        config.stage.lora = [{**adapter, "dropout": 0.05}]
        config.stage.rules = [{"pattern": r".*/lora_[ab]$"}, {"pattern": "", "frozen": True}]
        config.stage.steps = 400
        config.loop.save_frozen = False
        config.loop.eval_every = config.loop.save_every = 200
    return config.lock()

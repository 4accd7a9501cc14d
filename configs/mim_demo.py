"""A small EVA-02 by masked image modelling: 64 x 64 pixels in 64 patches, 0.8M parameters.

    unijax train --config configs/mim_demo.py --run-dir runs/mim

Reproduces nothing published: the recipe is EVA-02's (arXiv 2303.11331, configs/eva_mim.py), reduced
to pictures of 64 pixels and two CPU cores; the teacher is the shipped understanding encoder
(configs/siglip_demo.py). Our choices: sizes, learning rate, steps, the data (the shipped pictures
and composed scenes, half and half).
"""

import dataclasses

from ml_collections import ConfigDict

from unijax.systems import micro


def get_config(arg: str = "") -> ConfigDict:
    """Takes no argument."""
    config = ConfigDict()
    config.reproduces = "EVA-02's pretraining, small"
    config.system = "mim"
    config.model = {
        "vision": {**dataclasses.asdict(micro.EVA), "mask_token": True},
        "teacher": dataclasses.asdict(micro.VISION),
    }
    config.tokenizer = ""
    config.init = {"teacher/vision_model": "assets/weights/siglip_demo.safetensors:vision_model"}
    config.seed = 0
    config.stage = {
        "name": "mim",
        "steps": 1600,
        "rules": [{"pattern": "teacher/", "frozen": True}, {"pattern": ""}],
        "optimizers": {
            "main": {
                "learning_rate": 2e-3,
                "schedule": "cosine",
                "warmup_steps": 100,
                "b1": 0.9,
                "b2": 0.98,
                "eps": 1e-6,
                "weight_decay": 0.05,
                "clip_norm": 3.0,
            },
        },
    }
    sources = [
        {"name": "emoji", "task": "describe", "kind": "shipped", "path": "emoji", "weight": 1.0},
        {"name": "scenes", "task": "describe", "kind": "scenes", "weight": 1.0},
    ]
    held_out = [{**s, "split": "validation"} for s in sources]
    config.data = {"sources": sources, "size": 64, "batch": 64, "crop": "random"}
    groups = [{"name": "und", "ratio": 1.0, "sources": held_out}]
    config.validation = {"batches": 4, "groups": groups}
    config.loop = {"log_every": 50, "eval_every": 400, "save_every": 400, "keep": 2}
    return config.lock()

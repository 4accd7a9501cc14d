"""The image tokenizer of the demo: 64 x 64 pixels to 8 x 8 codes, 1.5M parameters.

    unijax train --config configs/vq_demo.py --run-dir runs/vq

Reproduces nothing published: the recipe is LlamaGen's (arXiv 2406.06525), reduced to pictures of
64 pixels and two CPU cores. Our choices: sizes, learning rate, weights of the terms, the data (the
shipped pictures and composed scenes, half and half), an average of the parameters.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """Takes no argument."""
    config = ConfigDict()
    config.reproduces = "the shipped tokenizer, assets/weights/vq_demo.safetensors"
    config.system = "tokenizer"
    config.model = {
        "vq": {
            "image_size": 64,
            "base_channels": 32,
            "channel_multiplier": (1, 1, 1, 4),
            "num_res_blocks": 0,
            "latent_channels": 64,
            "embed_dim": 8,
            "num_embeddings": 2048,
        },
        "reconstruction": "l2",
        "perceptual_weight": 0.0,
    }
    config.tokenizer = ""
    config.seed = 0
    config.stage = {
        "name": "vq",
        "steps": 3600,
        "ema_decay": 0.998,
        "rules": [{"pattern": "generator/", "optimizer": "generator"}],
        "optimizers": {
            "generator": {
                "learning_rate": 2e-3,
                "schedule": "constant_decay",
                "warmup_steps": 100,
                "b1": 0.9,
                "b2": 0.95,
                "weight_decay": 0.0,
                "clip_norm": 1.0,
            },
        },
    }
    sources = [
        {"name": "emoji", "task": "describe", "kind": "shipped", "path": "emoji", "weight": 1.0},
        {"name": "scenes", "task": "describe", "kind": "scenes", "weight": 1.0},
    ]
    held_out = [{**s, "split": "validation"} for s in sources]
    config.data = {"sources": sources, "size": 64, "batch": 16}
    config.validation = {
        "batches": 16,
        "samples": 24,
        "groups": [{"name": "und", "ratio": 1.0, "sources": held_out}],
    }
    config.loop = {"log_every": 50, "eval_every": 400, "save_every": 400, "keep": 2}
    return config.lock()

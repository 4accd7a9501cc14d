"""The understanding encoder of the demo: 64 x 64 pixels to 64 features of 128, 0.8M parameters.

    unijax train --config configs/siglip_demo.py --run-dir runs/siglip

Reproduces nothing published: the loss is SigLIP's (arXiv 2303.15343), reduced to pictures of 64
pixels and two CPU cores. Our choices: sizes, learning rate, weight decay, the data (the shipped
pictures and composed scenes, half and half). Only the image tower is kept.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """Takes no argument."""
    config = ConfigDict()
    config.reproduces = "the shipped understanding encoder, assets/weights/siglip_demo.safetensors"
    config.system = "contrastive"
    config.model = {
        "vision": {
            "image_size": 64,
            "patch_size": 8,
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
        },
        "text": {
            "vocab_size": 4096,
            "max_length": 32,
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "layer_norm_eps": 1e-6,
            "causal": False,
            "pooling": "mean",
            "init": "normal",
        },
        "embed_dim": 128,
    }
    config.tokenizer = "assets/tokenizer"
    config.seed = 0
    config.stage = {
        "name": "siglip",
        "steps": 1600,
        "rules": [{"pattern": ""}],
        "optimizers": {
            "main": {
                "learning_rate": 1e-3,
                "schedule": "cosine",
                "warmup_steps": 100,
                "b1": 0.9,
                "b2": 0.95,
                "weight_decay": 0.01,
                "clip_norm": 1.0,
            },
        },
    }
    sources = [
        {"name": "emoji", "task": "describe", "kind": "shipped", "path": "emoji", "weight": 1.0},
        {"name": "scenes", "task": "describe", "kind": "scenes", "weight": 1.0},
    ]
    held_out = [{**s, "split": "validation"} for s in sources]
    config.data = {"sources": sources, "size": 64, "batch": 128, "text_length": 32, "crop": "pad"}
    groups = [{"name": "und", "ratio": 1.0, "sources": held_out}]
    config.validation = {"batches": 2, "groups": groups}
    config.loop = {"log_every": 50, "eval_every": 400, "save_every": 400, "keep": 2}
    return config.lock()

"""A small EVA-CLIP on the shipped pictures, its tower as masked image modelling left it.

    unijax train --config configs/mim_demo.py --run-dir runs/mim
    unijax train --config configs/clip_demo.py --run-dir runs/clip            # after MIM
    unijax train --config configs/clip_demo.py:random --run-dir runs/clip     # from nothing

Reproduces nothing published: the recipe is EVA-CLIP's (arXiv 2303.15389, configs/eva_clip.py),
reduced to pictures of 64 pixels and two CPU cores. Our choices: sizes, learning rates, steps, AdamW
in LAMB's place, a text tower that averages its tokens, the data. At every evaluation the nine
categories of the held-out pictures are told apart from prompts alone.
"""

import dataclasses
import math

from ml_collections import ConfigDict

from unijax.systems import micro

CATEGORIES = (
    "activities", "animals and nature", "flags", "food and drink", "objects", "people and body",
    "smileys and emotion", "symbols", "travel and places",
)  # fmt: skip
PROMPTS = ("{}", "a picture of {}", "an emoji of {}", "{}, drawn")


def get_config(start: str = "mim") -> ConfigDict:
    """`start` is mim or random."""
    if start not in ("mim", "random"):
        raise ValueError("mim or random")
    config = ConfigDict()
    config.reproduces = "EVA-CLIP's training, small"
    config.system = "contrastive"
    config.model = {
        "vision": {
            **dataclasses.asdict(micro.EVA),
            "attention_norm": True,
            "init": "eva_clip",
        },
        "text": {
            "vocab_size": 4096,
            "max_length": 32,
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "causal": False,
            "pooling": "mean",
        },
        "embed_dim": 128,
        "loss": "softmax",
        "vision_pooling": "class",
        "vision_bias": True,
        "chunk": 128,
    }
    config.tokenizer = "assets/tokenizer"
    if start == "mim":
        config.init = {"vision_model": "runs/mim"}
    config.seed = 0
    config.stage = {
        "name": "clip",
        "steps": 1200,
        "rules": [
            {"pattern": "similarity/scale", "clamp": (0.0, math.log(100.0))},
            {"pattern": "vision_model/embeddings/", "lr_multiple": 0.75**5},
            {"pattern": "vision_model/encoder/layers/", "layer_decay": 0.75},
            {"pattern": ""},
        ],
        "optimizers": {
            "main": {
                "learning_rate": 1e-3,
                "schedule": "cosine",
                "warmup_steps": 100,
                "b1": 0.9,
                "b2": 0.98,
                "eps": 1e-6,
                "weight_decay": 0.05,
                "clip_norm": 1.0,
            },
        },
    }
    emoji = {"name": "emoji", "task": "describe", "kind": "shipped", "path": "emoji"}
    config.data = {
        "sources": [emoji],
        "size": 64,
        "batch": 128,
        "text_length": 32,
        "crop": "random",
        "crop_scale": (0.5, 1.0),
    }
    groups = [{"name": "und", "ratio": 1.0, "sources": [{**emoji, "split": "validation"}]}]
    config.validation = {
        "batches": 1, "groups": groups, "classes": CATEGORIES, "prompts": PROMPTS,
    }  # fmt: skip
    config.loop = {"log_every": 50, "eval_every": 400, "save_every": 400, "keep": 2}
    return config.lock()

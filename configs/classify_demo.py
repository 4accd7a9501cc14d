"""The nine categories of the shipped pictures, told apart by a small EVA-02.

    unijax train --config configs/mim_demo.py --run-dir runs/mim
    unijax train --config configs/classify_demo.py:probe --run-dir runs/probe        # a linear head
    unijax train --config configs/classify_demo.py:finetune --run-dir runs/finetune  # the tower too
    unijax train --config configs/classify_demo.py:random --run-dir runs/random      # from nothing

Reproduces nothing published: fine-tuning is that of BEiT and EVA, whose rates decay from layer to
layer (arXiv 2106.08254, arXiv 2211.07636), reduced to pictures of 64 pixels and two CPU cores; a
probe has the tower frozen, its features computed once. Our choices: sizes, learning rates, steps,
the data.
"""

import dataclasses

from ml_collections import ConfigDict

from unijax.systems import micro

CATEGORIES = (
    "activities", "animals and nature", "flags", "food and drink", "objects", "people and body",
    "smileys and emotion", "symbols", "travel and places",
)  # fmt: skip
DECAY = 0.65
LAYERS = micro.EVA.num_hidden_layers
RULES = {
    "probe": [{"pattern": "vision_model/", "frozen": True}, {"pattern": ""}],
    "finetune": [
        {"pattern": "vision_model/embeddings/", "lr_multiple": DECAY ** (LAYERS + 1)},
        {"pattern": "vision_model/encoder/layers/", "layer_decay": DECAY},
        {"pattern": ""},
    ],
    "random": [{"pattern": ""}],
}


def get_config(how: str = "probe") -> ConfigDict:
    """`how` is probe, finetune or random."""
    rules, is_probe = RULES[how], how == "probe"
    config = ConfigDict()
    config.reproduces = "BEiT's and EVA's fine-tuning, and linear probes, small"
    config.system = "classification"
    config.model = {
        "vision": dataclasses.asdict(micro.EVA),
        "classes": len(CATEGORIES),
        "pooling": "mean",
        "label_smoothing": 0.0 if is_probe else 0.1,
    }
    config.tokenizer = ""
    config.cache_frozen = is_probe
    if how != "random":
        config.init = {"vision_model": "runs/mim"}
    config.seed = 0
    config.stage = {
        "name": how,
        "steps": 1000 if is_probe else 600,
        "rules": rules,
        "optimizers": {
            "main": {
                "learning_rate": 1e-2 if is_probe else 1e-3,
                "schedule": "cosine",
                "warmup_steps": 0 if is_probe else 50,
                "b1": 0.9,
                "b2": 0.98,
                "eps": 1e-6,
                "weight_decay": 0.0 if is_probe else 0.05,
                "clip_norm": 1.0,
            },
        },
    }
    emoji = {"name": "emoji", "task": "describe", "kind": "shipped", "path": "emoji"}
    config.data = {
        "sources": [emoji],
        "size": 64,
        "batch": 128,
        "crop": "centre" if is_probe else "random",
        "crop_scale": (0.5, 1.0),
        "classes": CATEGORIES,
    }
    groups = [{"name": "und", "ratio": 1.0, "sources": [{**emoji, "split": "validation"}]}]
    config.validation = {"batches": 1, "groups": groups}
    config.loop = {"log_every": 50, "eval_every": 200, "save_every": 200, "keep": 2}
    return config.lock()

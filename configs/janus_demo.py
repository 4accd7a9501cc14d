"""The demo: a Janus of 5M parameters, trained from scratch on two CPU cores in 15 minutes.

    make demo                                       # trains, draws, answers, exports, reports
    unijax train --config configs/janus_demo.py --run-dir runs/demo       # the training alone

Reproduces nothing published. It is Janus in all its parts, small: the decoder, adaptors, code table
and heads start at random and train together in one stage; the two encoders are the shipped ones
(configs/vq_demo.py, configs/siglip_demo.py), frozen, their outputs computed once. Everything is our
choice. Data: names of 256 shipped pictures to say and to draw, and word definitions.
"""

from ml_collections import ConfigDict

CATEGORIES = (
    "animals and nature", "food and drink", "objects", "activities", "travel and places",
)  # fmt: skip
PICTURES = 256


def get_config(arg: str = "") -> ConfigDict:
    """Takes no argument."""
    config = ConfigDict()
    config.reproduces = "the demo"
    config.system = "janus"
    config.model = {
        "text": {
            "vocab_size": 4096,
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 6,
            "num_attention_heads": 6,
            "num_key_value_heads": 6,
            "head_dim": 32,
        },
        "vision": {
            "image_size": 64,
            "patch_size": 8,
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
        },
        "vq": {
            "image_size": 64,
            "base_channels": 32,
            "channel_multiplier": (1, 1, 1, 4),
            "num_res_blocks": 0,
            "latent_channels": 64,
            "embed_dim": 8,
            "num_embeddings": 2048,
        },
    }
    config.tokenizer = "assets/tokenizer"
    config.init = {
        "vqmodel": "assets/weights/vq_demo.safetensors",
        "vision_model": "assets/weights/siglip_demo.safetensors",
    }
    config.cache_frozen = True
    config.dtype = "float32"
    config.param_dtype = "float32"
    config.seed = 0
    config.stage = {
        "name": "demo",
        "steps": 3300,
        "rules": [
            {"pattern": "vision_model/", "frozen": True},
            {"pattern": "vqmodel/", "frozen": True},
            {"pattern": ""},
        ],
        "optimizers": {
            "main": {
                "learning_rate": 2e-3,
                "schedule": "cosine",
                "warmup_steps": 100,
                "b1": 0.9,
                "b2": 0.95,
                "eps": 1e-8,
                "weight_decay": 0.0,
                "clip_norm": 1.0,
            }
        },
    }
    config.data = {
        "row_length": 512,
        "rows": 2,
        "slots": {"und": 6, "gen": 6},
        "template": "janus_pro",
        "p_first_sentence": 1.0,  # prompts are names, without keywords
        "groups": _groups("train"),
    }
    config.validation = {"batches": 4, "samples": 6, "groups": _groups("validation")}
    config.loop = {"log_every": 20, "eval_every": 1100, "save_every": 1100, "keep": 2}
    return config.lock()


def _groups(split: str) -> list[dict]:
    emoji = {
        "kind": "shipped", "path": "emoji", "split": split, "categories": CATEGORIES,
        "limit": PICTURES,
    }  # fmt: skip
    return [
        {
            "name": "und",
            "ratio": 3.0,
            "sources": [{"name": "names", "task": "name", **emoji}],
        },
        {
            "name": "text",
            "ratio": 1.0,
            "sources": [
                {"name": "words", "task": "text", "kind": "shipped", "path": "text", "split": split}
            ],
        },
        {
            "name": "gen",
            "ratio": 6.0,
            "sources": [{"name": "pictures", "task": "generate", **emoji}],
        },
    ]

"""A scaling study of micro Janus models on scenes that do not repeat: an IsoFLOP grid for CPUs.

    unijax sweep --config configs/scaling_micro.py --dir runs/study
    unijax fit runs/study/runs.parquet --out runs/study/fit
    unijax report runs/study/fit

Reproduces nothing published; everything is our choice. Decoders of 0.03M to 1.5M non-embedding
parameters (the micro ladder; docs/scaling.md), the shipped encoders, frozen; scenes composed
without end to describe, to answer questions about and to draw, and word definitions, the one source
that repeats. Constant learning rate, then linear decay over the last fifth; runs of one size share
their trunk. The learning rate is the same for all sizes and was not tuned: tune it before the
losses are believed.
"""

import pathlib

from ml_collections import ConfigDict

from unijax.main.config import load


def get_config(arg: str = "") -> ConfigDict:
    """Takes no argument; `unijax sweep` sets the width."""
    config = load(str(pathlib.Path(__file__).with_name("janus_demo.py"))).unlock()
    config.reproduces = "nothing: a study of micro models"
    config.cache_frozen = False
    config.stage.name = "scaling"
    config.stage.steps = 1000
    config.stage.optimizers.main.schedule = "constant_decay"
    config.stage.optimizers.main.decay_fraction = 0.2
    config.stage.optimizers.main.warmup_steps = 50
    config.stage.optimizers.main.learning_rate = 3e-3
    config.data.rows = 4
    config.data.groups = _groups("train")
    config.validation = {"batches": 16, "samples": 0, "groups": _groups("validation")}
    config.loop = {"log_every": 10, "eval_every": 0, "save_every": 500, "keep": 1,
                   "writers": ("jsonl",)}  # fmt: skip
    return config.lock()


def get_sweep() -> ConfigDict:
    """Six sizes at four budgets, less the runs of no sense: about 2e14 FLOPs in all."""
    return ConfigDict(
        {
            "kind": "isoflop",
            "ladder": "micro",
            "widths": (32, 48, 64, 96, 128, 160),
            "budgets": (1e12, 3e12, 1e13, 3e13),
            "tokens_per_parameter": (2.0, 1000.0),
            "share_trunk": True,
        }
    )


def _groups(split: str) -> list[dict]:
    scenes = {"kind": "scenes", "split": split}
    words = {"kind": "shipped", "path": "text", "split": split}
    return [
        {
            "name": "und",
            "ratio": 4.0,
            "sources": [
                {"name": "questions", "task": "question", "weight": 3.0, **scenes},
                {"name": "descriptions", "task": "describe", **scenes},
            ],
        },
        {"name": "text", "ratio": 2.0, "sources": [{"name": "words", "task": "text", **words}]},
        {
            "name": "gen",
            "ratio": 4.0,
            "sources": [{"name": "scenes", "task": "generate", **scenes}],
        },
    ]

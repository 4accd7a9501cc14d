"""A scaling study of micro Janus models on composed scenes: an IsoFLOP grid for CPUs.

    unijax sweep --config configs/scaling_micro.py --dir runs/study
    unijax fit runs/study/runs.parquet --out runs/study/fit
    unijax report runs/study/fit

Reproduces nothing published; everything is our choice, and docs/study.md says what came of it.
Decoders of 0.03M to 1.5M non-embedding parameters (the micro ladder; docs/scaling.md) and one of
0.007M, so that small budgets have a size below their best; the shipped encoders, frozen and run
once ahead of all; composed scenes to answer questions about, to describe and to draw, and word
definitions. A scene may be drawn and asked about. The pool lasts for 7.1 million tokens: most runs
see no document twice, a few long ones of small models go over it up to four times, which costs
nothing that configs/scaling_epochs.py can show; the table says how often each did. Constant
learning rate, then linear decay over the last fifth; runs of one size share their trunk. The
learning rate is the best of width 32 (configs/scaling_rate.py), which the maximal-update
parametrisation carries to the others.
"""

import pathlib

from ml_collections import ConfigDict

from unijax.main.config import load

QUESTIONS, DESCRIPTIONS, DRAWINGS, HELD_OUT = 28_500, 9_600, 38_000, 600


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: nothing, or "small", which learns nothing in minutes. The sweep sets the width."""
    small = {"": False, "small": True}[arg]
    config = load(str(pathlib.Path(__file__).with_name("janus_demo.py"))).unlock()
    config.reproduces = "nothing: a study of micro models"
    config.cache_frozen = True
    config.stage.name = "scaling"
    config.stage.steps = 1000
    config.stage.optimizers.main.schedule = "constant_decay"
    config.stage.optimizers.main.decay_fraction = 0.2
    config.stage.optimizers.main.warmup_steps = 50
    config.stage.optimizers.main.learning_rate = 8e-3
    config.data.groups = _groups("train", QUESTIONS, DESCRIPTIONS, DRAWINGS)
    config.validation = {
        "batches": 64,
        "samples": 0,
        "groups": _groups("validation", HELD_OUT, HELD_OUT, HELD_OUT),
    }
    if small:
        config.stage.optimizers.main.warmup_steps = 2
        config.data.groups = _groups("train", 200, 100, 200)
        config.validation.batches = 2
        config.validation.groups = _groups("validation", 20, 20, 20)
    config.loop = {"log_every": 10, "eval_every": 0, "save_every": 1000, "keep": 1,
                   "writers": ("jsonl",)}  # fmt: skip
    return config.lock()


def get_sweep(arg: str = "") -> ConfigDict:
    """Seven sizes at six budgets, less the runs of no sense: 31 runs."""
    widths, budgets = (16, 32, 48, 64, 96, 128, 160), (2e11, 4e11, 8e11, 1.6e12, 5e12, 1.5e13)
    if arg == "small":
        widths, budgets = (32, 48), (1e10, 2e10, 4e10, 8e10)
    return ConfigDict(
        {
            "kind": "isoflop",
            "ladder": "micro",
            "widths": widths,
            "mup_width": 32,
            "budgets": budgets,
            "tokens_per_parameter": (0.01 if arg == "small" else 0.3, 1e12),
            "most_tokens": 2.8e7,
            "share_trunk": True,
        }
    )


def _groups(split: str, questions: int, descriptions: int, drawings: int) -> list[dict]:
    scenes = {"kind": "scenes", "split": split}
    words = {"kind": "shipped", "path": "text", "split": split}
    return [
        {
            "name": "und",
            "ratio": 4.0,
            "sources": [
                {"name": "questions", "task": "question", "weight": 3.0, "limit": questions,
                 **scenes},
                {"name": "descriptions", "task": "describe", "limit": descriptions, **scenes},
            ],
        },
        {"name": "text", "ratio": 2.0, "sources": [{"name": "words", "task": "text", **words}]},
        {
            "name": "gen",
            "ratio": 4.0,
            "sources": [
                {"name": "scenes", "task": "generate", "limit": drawings, **scenes},
            ],
        },
    ]  # fmt: skip

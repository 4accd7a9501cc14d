"""A Janus of 10M parameters on all the shipped pictures and on scenes without end: hours on a CPU.

    unijax train --config configs/janus_composition.py --run-dir runs/composition
    unijax composition runs/composition          # what it never saw together: composition.html

Reproduces nothing published. It is the demo (configs/janus_demo.py) with a larger decoder and more
data. Everything is our choice. Some gestures are never shown in some skin tones, and some things
never in some numbers and places of scenes: `unijax composition` asks for those. The frozen encoders
run in the step, because scenes never repeat. Results: docs/results.md.
"""

import pathlib

from ml_collections import ConfigDict

from unijax.main.config import load


def get_config(arg: str = "") -> ConfigDict:
    """Takes no argument."""
    config = load(str(pathlib.Path(__file__).with_name("janus_demo.py"))).unlock()
    config.reproduces = "the composition test of docs/results.md"
    config.model.text.hidden_size = 256
    config.model.text.intermediate_size = 704
    config.model.text.num_hidden_layers = 8
    config.model.text.num_attention_heads = 8
    config.model.text.num_key_value_heads = 8
    config.cache_frozen = False
    config.stage.name = "composition"
    config.stage.steps = 7000
    config.stage.optimizers.main.learning_rate = 1.5e-3
    config.data.groups = _groups("train")
    config.data.rows = 4
    config.data.p_first_sentence = 0.25
    config.validation = {"batches": 4, "samples": 12, "groups": _groups("validation")}
    config.loop = {"log_every": 50, "eval_every": 1000, "save_every": 500, "keep": 2}
    return config.lock()


def _groups(split: str) -> list[dict]:
    emoji = {"kind": "shipped", "path": "emoji", "split": split}
    scenes = {"kind": "scenes", "split": split}
    return [
        {
            "name": "und",
            "ratio": 3.0,
            "sources": [
                {"name": "names", "task": "name", "weight": 3.0, **emoji},
                {"name": "keywords", "task": "keywords", "weight": 0.5, **emoji},
                {"name": "questions", "task": "question", "weight": 3.0, **scenes},
                {"name": "descriptions", "task": "describe", "weight": 0.5, **scenes},
            ],
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
            "sources": [
                {"name": "pictures", "task": "generate", "weight": 2.0, **emoji},
                {"name": "scenes", "task": "generate", **scenes},
            ],
        },
    ]

"""A small MetaQuery: queries and a Sana of 5M parameters beside a frozen model that reads.

    unijax train --config configs/metaquery_demo.py --run-dir runs/metaquery
    make gallery                                    # beside the other systems, on the same pictures

Reproduces nothing published: all parts of MetaQuery, small, over the latents of the shipped
autoencoder, on the pictures of configs/janus_demo.py. First the model that reads is trained, by
configs/llava_demo.py (runs/metaquery/before/base); then it stays as it is. The generator starts at
random and trains with queries and connector, by a rectified flow as published.
"""

import dataclasses
import pathlib

from ml_collections import ConfigDict

from unijax.main.config import load
from unijax.systems.metaquery_ladders import KL, MARKS, generator

QUERIES = 16
WIDTH = 192  # of the generator


def get_config(arg: str = "") -> ConfigDict:
    """`arg` is a run of configs/llava_demo.py; without one it is trained first."""
    config = load(str(pathlib.Path(__file__).with_name("llava_demo.py"))).unlock()
    if not arg:
        config.before = {"base": load(str(pathlib.Path(__file__).with_name("llava_demo.py")))}
    config.reproduces = "MetaQuery in the gallery"
    config.system = "metaquery"
    width = config.model.text.hidden_size
    config.model.update(
        {
            "queries": QUERIES,
            "marks": MARKS,
            "connector": {
                "hidden_size": width,
                "output_size": WIDTH,
                "num_hidden_layers": 2,
                "head_dim": 32,
            },
            "generator": dataclasses.asdict(generator(WIDTH)),
            "autoencoder": dataclasses.asdict(KL),
        }
    )
    frozen = ("language_model", "vision_model", "aligner")
    config.init = {name: arg or f"base:{name}" for name in frozen} | {
        "autoencoder": "assets/weights/kl_demo.safetensors"
    }
    config.stage.name = "draw"
    config.stage.steps = 2000
    config.stage.rules = [
        *[{"pattern": f"{name}/", "frozen": True} for name in (*frozen, "autoencoder")],
        {"pattern": ""},
    ]
    config.stage.optimizers.main.learning_rate = 1e-3
    config.data.rows = 2
    config.data.slots = {"gen": 16}
    drawn = load(str(pathlib.Path(__file__).with_name("janus_demo.py")))
    for name in ("data", "validation"):
        groups = getattr(drawn, name).groups
        getattr(config, name).groups = [g for g in groups if g["name"] == "gen"]
    config.loop = {"log_every": 20, "eval_every": 1000, "save_every": 500, "keep": 2}
    return config.lock()

"""A MetaMorph of 4M parameters, trained from scratch on two CPU cores in minutes.

    make gallery                                    # beside the other systems, on the same pictures
    unijax train --config configs/metamorph_demo.py --run-dir runs/metamorph
    unijax train --config configs/metamorph_demo.py:connector --run-dir runs/connector

Reproduces nothing published: the decoder and the data of configs/janus_demo.py, over 16 features of
the shipped vision tower. First the visualiser is trained, which makes pictures of them, by
configs/visualiser_demo.py (runs/metamorph/before/visualiser); then it stays as it is. Both stages
of MetaMorph are here: the connector alone, then all but what is frozen; the demo is the second,
from scratch.
"""

import pathlib

from ml_collections import ConfigDict

from unijax.main.config import load

_FROZEN = "(vision_model|condition|unet|autoencoder)/"


def get_config(arg: str = "vpit") -> ConfigDict:
    """`arg` is a stage: connector or vpit."""
    here = pathlib.Path(__file__)
    config = load(str(here.with_name("janus_demo.py"))).unlock()
    visualiser = load(str(here.with_name("visualiser_demo.py")))
    painter = visualiser.model
    config.system = "metamorph"
    config.model = {
        "text": config.model.text,
        "vision": painter.vision,
        "visualiser": painter.visualiser,
        "grid": painter.grid,
    }
    config.before = {"visualiser": visualiser}
    config.init = {
        "vision_model": "assets/weights/siglip_demo.safetensors",
        "autoencoder": "assets/weights/kl_demo.safetensors",
        "condition": "visualiser:condition",
        "unet": "visualiser:unet",
    }
    rules = [{"pattern": _FROZEN, "frozen": True}]
    if arg == "connector":
        rules += [
            {"pattern": "language_model/embed_tokens/"},
            {"pattern": "(language_model|vision_head)/", "frozen": True},
        ]
        config.data.groups = [g for g in config.data.groups if g["name"] == "und"]
    config.stage.name = arg
    config.stage.rules = [*rules, {"pattern": ""}]
    config.stage.steps = 1600
    config.data.slots = {"image": 20}
    config.loop.eval_every = config.loop.save_every = 800
    return config.lock()

"""A small LLaVA, which reads pictures and words: what configs/metaquery_demo.py leaves frozen.

    unijax train --config configs/llava_demo.py --run-dir runs/llava

Reproduces nothing published: the decoder and the data of configs/janus_demo.py without its pictures
to draw, over the shipped tower, on two CPU cores in minutes.
"""

import pathlib

from ml_collections import ConfigDict

from unijax.main.config import load


def get_config(arg: str = "") -> ConfigDict:
    """Takes no argument."""
    config = load(str(pathlib.Path(__file__).with_name("janus_demo.py"))).unlock()
    config.reproduces = "the frozen model of configs/metaquery_demo.py"
    config.system = "llava"
    config.model = {
        "text": config.model.text,
        "vision": config.model.vision,
        "resize": "pad",
        "begins": True,
    }
    del config.init.vqmodel
    config.stage.name = "read"
    config.stage.steps = 1200
    config.stage.rules = [{"pattern": "vision_model/", "frozen": True}, {"pattern": ""}]
    config.data.slots = {"und": 6}
    for part in (config.data, config.validation):
        part.groups = [group for group in part.groups if group["name"] != "gen"]
    config.loop = {"log_every": 20, "eval_every": 400, "save_every": 400, "keep": 2}
    return config.lock()

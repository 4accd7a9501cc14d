"""A small LLaVA, which reads pictures and words: what others leave frozen while they learn to draw.

    unijax train --config configs/llava_demo.py --run-dir runs/llava

Reproduces nothing published: the decoder and the data of configs/janus_demo.py without its pictures
to draw, over the shipped tower, on two CPU cores in minutes. It reads the captions of the pictures
as text, too: configs/metaquery_demo.py and configs/llavafusion_demo.py draw from what it makes of
them, and hear little of words that it never read (docs/log.md).
"""

import pathlib

from ml_collections import ConfigDict

from unijax.main.config import load


def get_config(arg: str = "") -> ConfigDict:
    """Takes no argument."""
    config = load(str(pathlib.Path(__file__).with_name("janus_demo.py"))).unlock()
    config.reproduces = "the frozen model of other small systems"
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
        groups = {group["name"]: group for group in part.groups}
        (words,), (pictures,) = (groups[name]["sources"] for name in ("text", "gen"))
        captions = {**pictures, "name": "captions", "task": "caption"}
        text = {**groups["text"], "ratio": 2.0, "sources": [words, captions]}
        part.groups = [groups["und"], text]
    config.loop = {"log_every": 20, "eval_every": 400, "save_every": 400, "keep": 2}
    return config.lock()

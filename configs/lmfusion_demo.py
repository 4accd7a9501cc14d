"""An LMFusion over a language model of 4M parameters, both trained on two CPU cores in minutes.

    make gallery                                    # beside the other systems, on the same pictures
    unijax train --config configs/lmfusion_demo.py --run-dir runs/lmfusion

Reproduces nothing published. First a language model is trained on definitions of words and on the
captions of the pictures (runs/lmfusion/before/base); then it stays as it is, and its twin learns to
draw from captions alone: the decoder, the image layers and the pictures of
configs/transfusion_demo.py. A frozen model that has not read the captions is hardly heard
(docs/log.md).
"""

import pathlib

from ml_collections import ConfigDict

from unijax.main.config import load
from unijax.systems.lmfusion import LMFusionConfig


def get_config(arg: str = "deep") -> ConfigDict:
    """`arg` is the separation: deep or shallow."""
    config = _transfusion()
    config.before = {"base": _base()}
    config.system = "lmfusion"
    config.model.separation = arg
    config.model.guidance = LMFusionConfig.guidance
    config.init.language_model = "base:language_model"
    config.init.image_twin = ":language_model"
    frozen = {"pattern": "language_model/", "frozen": True}
    config.stage.rules = [frozen, *config.stage.rules]
    shares = {"und": 0.2, "gen": 0.8}
    for of in (config.data, config.validation):
        groups = {g["name"]: g for g in of.groups}
        pictures = {**groups["gen"]["sources"][0], "task": "caption_to_image"}
        groups["gen"] = {**groups["gen"], "sources": [pictures]}
        of.groups = [{**groups[name], "ratio": share} for name, share in shares.items()]
    config.stage.steps = 5000
    return config.lock()


def _base() -> ConfigDict:
    config = _transfusion()
    config.stage.name, config.stage.steps = "base", 1500
    config.cache_frozen, config.data.slots = False, {}  # no picture is seen
    config.validation.samples = 0
    for of in (config.data, config.validation):
        groups = {g["name"]: g for g in of.groups}
        (words,), (pictures,) = (groups[name]["sources"] for name in ("text", "gen"))
        captions = {**pictures, "name": "captions", "task": "caption", "weight": 3.0}
        of.groups = [{"name": "text", "ratio": 1.0, "sources": [words, captions]}]
    config.loop.update(eval_every=500, save_every=500)
    return config


def _transfusion() -> ConfigDict:
    return load(str(pathlib.Path(__file__).with_name("transfusion_demo.py"))).unlock()

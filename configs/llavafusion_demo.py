"""A LLaVAFusion over a LLaVA of 4M parameters, both trained on two CPU cores in minutes.

    unijax train --config configs/llavafusion_demo.py --run-dir runs/llavafusion
    unijax sample runs/llavafusion --prompt "red apple" --out drawn
    unijax ask runs/llavafusion "What is in this picture?" --image PICTURE

Reproduces nothing published. First the model that reads pictures is trained, by
configs/llava_demo.py (runs/llavafusion/before/base); then it stays as it is, and its twin learns to
draw the pictures of configs/transfusion_demo.py, as in configs/lmfusion_demo.py. What it is asked
it answers as before.
"""

import pathlib

from ml_collections import ConfigDict

from unijax.main.config import load
from unijax.systems.llavafusion import LLaVAFusion


def get_config(arg: str = "") -> ConfigDict:
    """`arg` is a run of configs/llava_demo.py; without one it is trained first."""
    config, base = _demo("lmfusion"), _demo("llava")
    if arg:
        del config.before
    else:
        config.before = {"base": base}
    config.system = "llavafusion"
    config.model.update({name: base.model[name] for name in ("vision", "resize", "begins")})
    reads = ("language_model", "vision_model", "aligner")
    config.init.update({name: arg or f"base:{name}" for name in reads})
    config.stage.name = "draw"
    rules = [{"pattern": pattern, "frozen": True} for pattern in LLaVAFusion.keeps]
    config.stage.rules = [*rules, {"pattern": ""}]
    config.data.learn_prompts = False  # what stands before a drawing is the frozen side's alone
    for of in (config.data, config.validation):
        of.groups = [group for group in of.groups if group["name"] == "gen"]
    return config.lock()


def _demo(name: str) -> ConfigDict:
    return load(str(pathlib.Path(__file__).with_name(f"{name}_demo.py"))).unlock()

"""LLaVAFusion: LLaVA-NeXT 8B, which stays as it is, and a twin of its decoder that draws.

Reproduces: arXiv 2412.15188, section 6: data and settings of LMFusion (configs/lmfusion.py), which
see; every weight of LLaVA-NeXT frozen, the twin and the image layers at 1e-4.

    unijax train --config configs/llavafusion.py --run-dir runs/llavafusion
    unijax train --config configs/llavafusion.py:edit --run-dir runs/edit
    unijax plan --config configs/llavafusion.py

LLaVA-NeXT in transformers' directory and an autoencoder of diffusers go in as parts, the twin as a
copy of the decoder, and the run starts from them (`--init-from runs/parts`). Its tokenizer has no
marks of pictures: name two of Llama 3's reserved tokens in its special_tokens.json.

    unijax import --part base=DIR --part autoencoder=DIR \\
        --config configs/llavafusion.py --run-dir runs/parts

Our choices: those of LMFusion, and captions always stand before their picture, as one before its
caption is the tower's to read (systems/llavafusion.py). In editing, the picture to be changed goes
through the twin, like the one that results.
"""

import dataclasses
import pathlib

from ml_collections import ConfigDict

from unijax.main.config import load
from unijax.systems.llavafusion import SIZES, LLaVAFusion


def get_config(arg: str = "pretrain") -> ConfigDict:
    """`arg` is a stage: pretrain or edit."""
    lmfusion = pathlib.Path(__file__).with_name("lmfusion.py")
    config = load(f"{lmfusion}:deep,0,{arg}").unlock()
    config.reproduces = "LLaVAFusion: arXiv 2412.15188, section 6"
    config.system = "llavafusion"
    config.model = ConfigDict(dataclasses.asdict(SIZES["llavafusion_8b"]))
    frozen = ("aligner", "autoencoder", "language_model", "vision_model")
    if arg == "edit":
        config.init = dict.fromkeys((*frozen, "image_twin", "image_layers"), "runs/llavafusion")
    else:
        config.init = {group: f"data/{group}.safetensors" for group in frozen}
        config.init["image_twin"] = ":language_model"
    rules = [{"pattern": pattern, "frozen": True} for pattern in LLaVAFusion.keeps]
    config.stage.rules = [*rules, {"pattern": ""}]
    config.data.template = "llama3"  # of what is asked about pictures
    for part in (config.data, config.validation):
        part.groups = [group for group in part.groups if group["name"] == "gen"]
    return config.lock()

"""A Transfusion of 4M parameters, trained from scratch on two CPU cores in minutes.

    make gallery                                    # beside the other systems, on the same pictures
    unijax train --config configs/transfusion_demo.py --run-dir runs/transfusion

Reproduces nothing published: the decoder and the data of configs/janus_demo.py, with linear image
layers over the latents of the shipped autoencoder (configs/kl_demo.py), 2 x 2 a patch. The small
model knows its pictures by heart, so more of its row are pictures, and it draws in few steps. It
predicts v: of noise it would learn too little where its prompt is all it has (docs/log.md).
"""

import dataclasses
import pathlib

from ml_collections import ConfigDict

from unijax.main.config import load
from unijax.models.autoencoder import SIZES
from unijax.models.latent_patches import LatentPatchesConfig


def get_config(arg: str = "") -> ConfigDict:
    """Takes no argument."""
    config = load(str(pathlib.Path(__file__).with_name("janus_demo.py"))).unlock()
    config.system = "transfusion"
    ae = SIZES["kl_demo"]
    config.model = {
        "text": config.model.text,
        "autoencoder": dataclasses.asdict(ae),
        "patches": dataclasses.asdict(LatentPatchesConfig(ae.grid, ae.latent_channels, 2)),
        "prediction": "v_prediction",
        "sampler": "ddim",
        "steps": 50,
    }
    config.init = {"autoencoder": "assets/weights/kl_demo.safetensors"}
    config.stage.rules = [{"pattern": "autoencoder/", "frozen": True}, {"pattern": ""}]
    config.data.slots = {"image": 16}
    config.data.learn_prompts = True
    return config.lock()

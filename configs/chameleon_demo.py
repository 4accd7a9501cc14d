"""A Chameleon of 4M parameters, trained from scratch on two CPU cores in minutes.

    make gallery                                    # beside the other systems, on the same pictures
    unijax train --config configs/chameleon_demo.py --run-dir runs/chameleon

Reproduces nothing published: the decoder, data and steps of configs/janus_demo.py, with one
vocabulary of words and image codes, norms of queries and keys, the published order of norms and a
z-loss. Pictures are read as they are drawn, by their codes; whole names are learned, so that every
token of a row is (arXiv 2405.09818, section 2.2).
"""

import pathlib

from ml_collections import ConfigDict

from unijax.main.config import load

FIRST_CODE = 4096  # behind the words of the shipped tokenizer


def get_config(arg: str = "") -> ConfigDict:
    """Takes no argument."""
    config = load(str(pathlib.Path(__file__).with_name("janus_demo.py"))).unlock()
    config.system = "chameleon"
    text = config.model.text
    text.qk_norm, text.norm_order = "layer_norm", "post"
    text.vocab_size = FIRST_CODE + config.model.vq.num_embeddings
    config.model = {"text": text, "vq": config.model.vq, "first_code": FIRST_CODE}
    del config.init.vision_model
    config.stage.rules = [{"pattern": "vqmodel/", "frozen": True}, {"pattern": ""}]
    config.data.slots = {"image": 6}
    config.data.learn_prompts = True
    return config.lock()

"""LMFusion: Llama-3 8B, which stays as it is, and its twin for images.

Reproduces: arXiv 2412.15188, section 4: sizes, context 4096, captioned images alone, four captions
in five before their image, noise of images before their caption at most half, lambda 5, the text
side at a rate of 0, the twin and the image layers at 1e-4, AdamW (0.9, 0.95), epsilon 1e-8, 4,000
steps of warm-up, cosine to 1.5e-5, 250,000 tokens a step and 250,000 steps (the ablations').

    unijax train --config configs/lmfusion.py --run-dir runs/lmfusion
    unijax train --config configs/lmfusion.py:shallow,0.1 --run-dir runs/shallow
    unijax train --config configs/lmfusion.py:deep,0,edit --run-dir runs/edit
    unijax plan --config configs/lmfusion.py

Our choices, where the paper is silent: a batch is counted in packed rows; documents of a row do not
see each other; a tenth of the captions is left out, for guidance; latents of 8 channels (the paper
names 32 x 32 x 8, and an autoencoder that has 4); images have a last norm of their own. `data/`
holds the language model and the autoencoder as files of weights, and the sources (docs/data.md).

Editing (section 6) goes on from such a run with 8,000 pictures, what to change, and what results.
The paper says no more of it; ours are seven triples a row and 8 rows a step, 1,429 steps (ten times
over the data), a tenth of the rate after 100 steps of warm-up, and turns of plain words.
"""

import dataclasses
import pathlib

from ml_collections import ConfigDict

from unijax.main.config import load
from unijax.systems.lmfusion import SIZES

TRIPLES, EPOCHS = 8_000, 10  # of editing
ROWS, PICTURES = 8, 14  # of a step; of a row, two a triple


def get_config(arg: str = "deep,0") -> ConfigDict:
    """`arg` is `SEPARATION,RATIO` or `SEPARATION,RATIO,STAGE`: deep or shallow; rate of the text
    side for that of images; pretrain (the default) or edit."""
    separation, ratio, *stage = arg.split(",")
    edits = {(): False, ("pretrain",): False, ("edit",): True}[tuple(stage)]
    sizes = dataclasses.replace(SIZES["lmfusion_8b"], separation=separation)
    transfusion = pathlib.Path(__file__).with_name("transfusion.py")
    config = load(f"{transfusion}:7b,unet").unlock()
    config.reproduces = f"LMFusion, {separation}, text at {ratio} of the rate: arXiv 2412.15188"
    config.system = "lmfusion"
    config.model = ConfigDict(dataclasses.asdict(sizes))
    config.init = {
        "language_model": "data/llama3_8b.safetensors",
        "image_twin": ":language_model",
        "autoencoder": "data/autoencoder.safetensors",
    }
    text = {"pattern": "language_model/"}
    text |= {"lr_multiple": float(ratio)} if float(ratio) else {"frozen": True}
    frozen = {"pattern": "autoencoder/", "frozen": True}
    config.stage.rules = [frozen, text, {"pattern": ""}]
    main = config.stage.optimizers.main
    main.learning_rate, main.final_share = 1e-4, 0.15
    config.data.rows = 64
    for groups in (config.data.groups, config.validation.groups):
        for group in groups:
            group["ratio"] = {"und": 0.2, "gen": 0.8}.get(group["name"], 0.0)
    config.hardware = "h100:8*8"
    if edits:
        _edit(config)
    return config.lock()


def _edit(config: ConfigDict) -> None:
    groups = ("language_model", "image_twin", "image_layers", "autoencoder")
    config.init = dict.fromkeys(groups, "runs/lmfusion")
    config.stage.name = "edit"
    config.stage.steps = -(-TRIPLES * EPOCHS // (ROWS * PICTURES // 2))
    main = config.stage.optimizers.main
    main.learning_rate, main.warmup_steps = main.learning_rate / 10, 100
    config.data.rows, config.data.slots = ROWS, {"image": PICTURES}
    config.data.template = "janus"  # User: ... Assistant:
    config.data.learn_prompts = False
    for of, folder in ((config.data, "data"), (config.validation, "data/validation")):
        path = f"{folder}/edits.jsonl"
        source = {"name": "edits", "task": "draw", "kind": "jsonl", "path": path}
        of.groups = [{"name": "gen", "ratio": 1.0, "sources": [source]}]
    config.hardware = "h100:8"
    config.loop = {"log_every": 10, "eval_every": 100, "save_every": 500, "keep": 2}

"""Masked image modelling of EVA-01 and EVA-02.

    unijax train --config configs/eva_mim.py:eva01_g --run-dir runs/mim

Reproduces: EVA-01 g/14 (arXiv 2211.07636, table 1 and appendix): 105 of 256 patches masked in
blocks, the patches of OpenAI's CLIP ViT-L/14 after its last norm and projection as targets,
negative cosine, 29.6 million pictures 150 times, batches of 4096, AdamW (0.9, 0.98), epsilon 1e-6,
weight decay 0.05, clipping at 3, a rate of 1e-3 from 1e-6 in 2 epochs and to 1e-5 on a cosine, drop
path 0.1, random crops of 0.2 to 1 of a picture. EVA-02 Ti, S, B, L (arXiv 2303.11331;
baaivision/EVA): the same, taught by EVA-CLIP g/14, with the gradient of the patches damped to a
tenth; rates, batches, epochs, drop path are in `RECIPES`. B and Ti, S, L are of ImageNet-21K,
`eva02_l_m38m` of merged-38M.

The teacher is a run that `init` names: of CLIP or of EVA-CLIP, its groups `vision_model` and
`vision_projection`. The data is yours, in the folders that `SOURCES` names (docs/data.md).

Our choices, where the papers are silent: bfloat16 where EVA has float16; 14,197,122 pictures of
ImageNet-21K; shares of the sources by the numbers of their pictures as their own publications count
them, whose sum is above EVA's; a warm-up of EVA-02 that begins at 1e-6 as EVA-01's; the hardware.
"""

import dataclasses
import math

from ml_collections import ConfigDict

from unijax.models import clip, eva

MERGED_30M, IMAGENET_21K, MERGED_38M = 29_600_000, 14_197_122, 38_000_000
# size, pictures, epochs, warm-up epochs, batch, rate, drop path
RECIPES = {
    "eva01_g": ("eva_giant_patch14_224", MERGED_30M, 150, 2, 4096, 1e-3, 0.1),
    "eva02_ti": ("eva02_tiny_patch14_224", IMAGENET_21K, 240, 1, 4000, 3e-3, 0.0),
    "eva02_s": ("eva02_small_patch14_224", IMAGENET_21K, 240, 1, 4000, 3e-3, 0.0),
    "eva02_b": ("eva02_base_patch14_224", IMAGENET_21K, 150, 1, 2048, 1.5e-3, 0.0),
    "eva02_l": ("eva02_large_patch14_224", IMAGENET_21K, 150, 1, 2048, 1.5e-3, 0.1),
    "eva02_l_m38m": ("eva02_large_patch14_224", MERGED_38M, 56, 1, 2048, 1.5e-3, 0.1),
}
SOURCES = {
    MERGED_30M: ("imagenet_21k", "cc12m", "cc3m", "objects365", "coco", "ade20k"),
    IMAGENET_21K: ("imagenet_21k",),
    MERGED_38M: ("imagenet_21k", "cc12m", "cc3m", "objects365", "coco", "ade20k", "openimages"),
}
# Of each, as its publication counts them.
PICTURES = {
    "imagenet_21k": IMAGENET_21K, "cc12m": 12_423_374, "cc3m": 3_318_333, "objects365": 1_742_289,
    "coco": 118_287, "ade20k": 20_210, "openimages": 9_011_219,
}  # fmt: skip
HARDWARE = {"eva01_g": "a100:8*16"}  # hosts of eight; others fit on four


def get_config(name: str = "eva01_g") -> ConfigDict:
    """`name` is a key of `RECIPES`."""
    size, pictures, epochs, warmup, batch, rate, drop_path = RECIPES[name]
    is_first = name == "eva01_g"
    student = dataclasses.replace(
        eva.SIZES[size],
        mask_token=True,
        drop_path=drop_path,
        patch_gradient=1.0 if is_first else 0.1,
    )
    if is_first:
        teacher, width = clip.VISION_SIZES["clip_vit_large_patch14_224"], 768
    else:
        teacher, width = eva.SIZES["eva_giant_patch14_clip_224"], 1024
    config = ConfigDict()
    config.reproduces = f"{name}: " + ("arXiv 2211.07636" if is_first else "arXiv 2303.11331")
    config.system = "mim"
    config.model = {
        "vision": dataclasses.asdict(student),
        "teacher": dataclasses.asdict(teacher),
        "target_dim": width,
        "target_bias": not is_first,
    }
    config.tokenizer = ""
    config.init = {
        f"teacher/{group}": f"runs/{'clip' if is_first else 'eva_clip_g'}:{group}"
        for group in ("vision_model", "vision_projection")
    }
    config.dtype = "bfloat16"
    config.param_dtype = "float32"
    config.remat = "full" if is_first else "none"
    config.seed = 0
    config.stage = {
        "name": "mim",
        "steps": round(pictures * epochs / batch),
        "rules": [
            {"pattern": "teacher/", "frozen": True},
            {"pattern": "vision_model/embeddings/position_embedding", "decay": False},
            {"pattern": ""},
        ],
        "optimizers": {
            "main": {
                "learning_rate": rate,
                "schedule": "knots",
                "knots": [
                    {"step": 0, "share": 1e-6 / rate},
                    {"step": math.ceil(pictures * warmup / batch), "share": 1.0},
                    {"step": -1, "share": 1e-5 / rate, "curve": "cosine"},
                ],
                "b1": 0.9,
                "b2": 0.98,
                "eps": 1e-6,
                "weight_decay": 0.05,
                "clip_norm": 3.0,
            },
        },
    }
    sources = [
        {
            "name": source,
            "task": "describe",
            "kind": "webdataset",
            "path": f"data/{source}",
            "weight": PICTURES[source] / 1e6,
        }
        for source in SOURCES[pictures]
    ]
    held_out = [{**s, "path": f"data/validation/{s['name']}"} for s in sources]
    config.data = {"sources": sources, "size": 224, "batch": batch, "crop": "random"}
    groups = [{"name": "und", "ratio": 1.0, "sources": held_out}]
    config.validation = {"batches": 1, "groups": groups}
    config.mesh = {"data": -1, "fsdp": 8, "table": "fsdp"}
    config.hardware = HARDWARE.get(name, "a100:8*4")
    config.loop = {"log_every": 50, "eval_every": 5_000, "save_every": 5_000, "keep": 3}
    return config.lock()

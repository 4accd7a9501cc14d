"""EVA-CLIP: towers of images and texts of every published size.

    unijax train --config configs/eva_clip.py:b16 --run-dir runs/eva_clip_b16

Reproduces: arXiv 2303.15389 and the recipes of baaivision/EVA (EVA-CLIP/rei): LAMB with weight
decay 0.05, a rate of 5e-4 and those of both towers below it, which decay from layer to layer,
warm-up of 2,000 steps and a cosine, the scale of the logits clamped to at most 100 after every
step, half of the patches left out of g+, E and E+ alone. `RECIPES` has what differs. The towers
begin as MIM and CLIP leave them: `init` names those runs; L at 336 pixels goes on from L at 224.

Our choices: `g` has no published recipe and takes g+'s rates and decay without patch dropout;
batches are published in thousands and here shared evenly by the published GPUs; the second moment
decays at 0.98 with epsilon 1e-6, as the paper has it where the code's default is 0.999 and 1e-8;
gradients are clipped at 1 once, where the release clips at 5 and then at 1; a cosine that ends at
zero; bfloat16. The data is yours: data/merged_2b, laion_400m and laion_2b (docs/data.md).
"""

import dataclasses
import math

from ml_collections import ConfigDict

from unijax.models import clip, eva

B = 1_000_000_000
# vision, text, width of both, batch, samples, GPUs, rates of vision and text, their layer decays,
# share of patches left out, data
RECIPES = {
    "g": ("eva_giant_patch14_clip_224", "clip_text_768x12", 1024,
          40_960, 11 * B, 256, 4e-4, 4e-5, 0.85, 0.75, 0.0, "laion_400m"),
    "g_plus": ("eva_giant_patch14_clip_224", "clip_text_1024x24", 1024,
               114_688, 11 * B, 112, 4e-4, 4e-5, 0.85, 0.75, 0.5, "merged_2b"),
    "b16": ("eva02_base_patch16_clip_224", "clip_text_512x12", 512,
            131_072, 8 * B, 64, 2e-4, 2e-5, 0.75, 0.75, 0.0, "merged_2b"),
    "l14": ("eva02_large_patch14_clip_224", "clip_text_768x12", 768,
            131_072, 4 * B, 128, 4e-4, 4e-5, 0.85, 0.75, 0.0, "merged_2b"),
    "l14_336": ("eva02_large_patch14_clip_336", "clip_text_768x12", 768,
                61_440, 2 * B, 128, 4e-4, 4e-5, 0.75, 0.65, 0.0, "merged_2b"),
    "e14": ("eva02_enormous_patch14_clip_224", "clip_text_1024x24", 1024,
            115_200, 4 * B, 144, 4e-4, 4e-5, 0.9, 0.75, 0.5, "laion_2b"),
    "e14_plus": ("eva02_enormous_patch14_clip_224", "clip_text_1280x32", 1024,
                 144_000, 9 * B, 144, 4e-4, 4e-5, 0.9, 0.75, 0.5, "laion_2b"),
}  # fmt: skip
RATE = 5e-4  # of what is in neither tower


def get_config(name: str = "b16") -> ConfigDict:
    """`name` is a key of `RECIPES`."""
    vision, text, width, batch, samples, gpus, *rates, dropout, data = RECIPES[name]
    tower = dataclasses.replace(eva.SIZES[vision], patch_dropout=dropout)
    texts = clip.TEXT_SIZES[text]
    config = ConfigDict()
    config.reproduces = f"EVA-CLIP {name}: arXiv 2303.15389"
    config.system = "contrastive"
    config.model = {
        "vision": dataclasses.asdict(tower),
        "text": dataclasses.asdict(texts),
        "embed_dim": width,
        "loss": "softmax",
        "vision_pooling": "class",
        "vision_bias": True,
    }
    config.tokenizer = "assets/tokenizer/clip"
    if name == "l14_336":
        groups = ("vision_model", "vision_projection", "text_model", "text_projection")
        config.init = dict.fromkeys((*groups, "similarity"), "runs/eva_clip_l14")
    else:
        config.init = {"vision_model": "runs/mim", "text_model": "runs/clip"}
    config.dtype = "bfloat16"
    config.param_dtype = "float32"
    config.remat = "full"
    config.seed = 0
    config.stage = {
        "name": "clip",
        "steps": round(samples / batch),
        "rules": _rules(tower, texts, *rates),
        "optimizers": {
            "main": {
                "kind": "lamb",
                "learning_rate": RATE,
                "schedule": "cosine",
                "warmup_steps": 2_000,
                "b1": 0.9,
                "b2": 0.98,
                "eps": 1e-6,
                "weight_decay": 0.05,
                "clip_norm": 1.0,
            },
        },
    }
    source = {"name": data, "task": "describe", "kind": "webdataset", "path": f"data/{data}"}
    held_out = {**source, "path": f"data/validation/{data}"}
    config.data = {
        "sources": [source],
        "size": tower.image_size,
        "batch": batch,
        "text_length": texts.max_length,
    }
    config.validation = {
        "batches": 1,
        "groups": [{"name": "und", "ratio": 1.0, "sources": [held_out]}],
    }
    config.mesh = {"data": -1, "fsdp": 8, "table": "fsdp"}
    config.hardware = f"a100:8*{gpus // 8}"
    config.loop = {"log_every": 50, "eval_every": 5_000, "save_every": 2_000, "keep": 3}
    return config.lock()


def _rules(
    vision: eva.EvaConfig,
    text: clip.ClipTextConfig,
    vision_rate: float,
    text_rate: float,
    vision_decay: float,
    text_decay: float,
) -> list[dict]:
    """Of either tower: what stands before its layers, the layers, what follows them."""
    towers = (
        ("vision", "embeddings/", vision.num_hidden_layers, vision_rate, vision_decay),
        ("text", "(token|position)_embedding/", text.num_hidden_layers, text_rate, text_decay),
    )
    rules = [{"pattern": "similarity/scale", "clamp": (0.0, math.log(100.0))}]
    for tower, before, layers, rate, decay in towers:
        multiple = rate / RATE
        rules += [
            {"pattern": f"{tower}_model/{before}", "lr_multiple": multiple * decay ** (layers + 1)},
            {
                "pattern": f"{tower}_model/encoder/layers/",
                "lr_multiple": multiple,
                "layer_decay": decay,
            },
            {"pattern": f"{tower}_", "lr_multiple": multiple},
        ]
    return rules

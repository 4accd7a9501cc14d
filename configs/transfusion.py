"""Transfusion, 0.16B to 7B, linear or U-Net image layers, 1 to 8 latents a patch.

Reproduces: arXiv 2408.11039, section 4.1 and tables 2, 6, 7: sizes, sequence 4096, 2M tokens a
step, text and images one to one in tokens, caption first with probability 0.8, noise of images
before their caption at most half (table 8), lambda 5, AdamW (0.9, 0.95), epsilon 1e-8, 3e-4 after
4,000 steps of warm-up, cosine to 1.5e-5, weight decay 0.1, clipping at 1, 250,000 steps.

    unijax train --config configs/transfusion.py:0.76b,linear --run-dir runs/transfusion
    unijax plan --config configs/transfusion.py:7b,unet

Our choices, where the paper is silent: a batch is counted in packed rows; documents of a row do not
see each other; a tenth of the captions is left out, for guidance; of a quarter of them the first
sentence alone stands; captions are learned like any text; latents are scaled by the autoencoder's
own factor; the U-Net's widths (models/unet.py). The data is yours: every source is a JSONL file
under data/ (docs/data.md has the format), the autoencoder a file of weights, as configs/kl_demo.py
makes one; one of diffusers goes, with fresh weights for the rest, into a run to start from
(`--init-from runs/parts`):

    unijax import --part autoencoder=DIR --tokenizer TOKENIZER \\
        --config configs/transfusion.py:0.76b,linear --run-dir runs/parts
"""

import dataclasses

from ml_collections import ConfigDict

from unijax.core.errors import UserError
from unijax.models import unet
from unijax.models.latent_patches import LatentPatchesConfig
from unijax.systems.transfusion import SIZES, TransfusionConfig

# Chips that hold a step, by the size of the decoder (docs/plan.md).
HARDWARE = {
    "0.16b": "h100:8*8", "0.37b": "h100:8*8", "0.76b": "h100:8*8", "1.4b": "h100:8*16",
    "7b": "h100:8*32",
}  # fmt: skip

# Latents of a patch's side, by the image layers (table 6).
PATCHES = {"linear": (1, 2, 4, 8), "unet": tuple(unet.TRANSFUSION)}


def model(size: str, layers: str, patch: int = 2) -> TransfusionConfig:
    """The sizes of the parts.

    Args:
      size: of the decoder, of `HARDWARE`.
      layers: "linear" or "unet".
      patch: latents of a patch's side.

    Raises:
      UserError: what is none of these.
    """
    patches = PATCHES.get(layers, ())
    if size not in HARDWARE or patch not in patches:
        accepted = "; ".join(f"{name} of {', '.join(map(str, n))}" for name, n in PATCHES.items())
        raise UserError(
            "configs/transfusion.py", f"{size},{layers},{patch}",
            f"SIZE,LAYERS or SIZE,LAYERS,PATCH: a size of {', '.join(HARDWARE)}; layers and "
            f"patches: {accepted}", "Correct what stands behind :.",
        )  # fmt: skip
    sizes = SIZES[f"transfusion_{size}_{layers}"]
    if patch == 2:
        return sizes
    if layers == "linear":
        return dataclasses.replace(sizes, patches=LatentPatchesConfig(patch_size=patch))
    return dataclasses.replace(sizes, unet=unet.TRANSFUSION[patch])


def get_config(arg: str = "0.76b,linear") -> ConfigDict:
    """`arg` is `SIZE,LAYERS` or `SIZE,LAYERS,PATCH`: 0.16b to 7b; linear with patches
    of 1, 2, 4 or 8, unet with 2, 4 or 8."""
    size, layers, *patch = arg.split(",")
    sizes = model(size, layers, *map(int, patch))
    config = ConfigDict()
    config.reproduces = f"Transfusion {size.upper()}, {layers}: arXiv 2408.11039, tables 6 and 7"
    config.system = "transfusion"
    config.model = dataclasses.asdict(sizes)
    config.tokenizer = "data/tokenizer"
    config.init = {"autoencoder": "data/autoencoder.safetensors"}
    config.dtype = "bfloat16"
    config.param_dtype = "float32"
    config.remat = "full"
    config.seed = 0
    config.stage = {
        "name": "pretrain",
        "steps": 250_000,
        "rules": [{"pattern": "autoencoder/", "frozen": True}, {"pattern": ""}],
        "optimizers": {
            "main": {
                "learning_rate": 3e-4,
                "schedule": "cosine",
                "final_share": 0.05,
                "warmup_steps": 4_000,
                "b1": 0.9,
                "b2": 0.95,
                "eps": 1e-8,
                "weight_decay": 0.1,
                "clip_norm": 1.0,
            }
        },
    }
    config.data = {
        "row_length": 4096,
        "rows": 512,
        # As many as a row holds, with a caption of 30 tokens each.
        "slots": {"image": min(4096 // (sizes.num_tokens + 32), 64)},
        "unit": "tokens",
        "learn_prompts": True,
        "groups": groups("data"),
    }
    config.validation = {"batches": 2, "groups": groups("data/validation")}
    config.mesh = {"data": -1, "fsdp": 8, "table": "fsdp"}
    config.hardware = HARDWARE[size]
    config.loop = {"log_every": 50, "eval_every": 5_000, "save_every": 1_000, "keep": 3}
    return config.lock()


def groups(folder: str) -> list[dict]:
    """Text and images one to one in tokens; four captions in five stand before their image."""

    def group(name: str, ratio: float, source: str, task: str) -> dict:
        path = f"{folder}/{source}.jsonl"
        found = {"name": f"{source}_{name}", "task": task, "kind": "jsonl", "path": path}
        return {"name": name, "ratio": ratio, "sources": [found]}

    return [
        group("und", 0.1, "images", "image_to_caption"),
        group("text", 0.5, "text", "text"),
        group("gen", 0.4, "images", "caption_to_image"),
    ]

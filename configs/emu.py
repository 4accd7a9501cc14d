"""Emu: LLaMA 13B with EVA-CLIP's giant, end to end, its pixel decoder, and instruction tuning.

Reproduces: arXiv 2307.05222 and baaivision/Emu: sizes, what each stage trains and at which rates,
steps, AdamW (0.9, 0.98), epsilon 1e-6, weight decay 0.05, cosine, a fifth of the steps of warm-up;
of the pixel decoder AdamW (0.9, 0.999), weight decay 0.01, its rate by steps, 1,600 pictures a
step, a condition that is dropped one time in ten, 512 pixels; of the instructions LoRA of rank 16,
scale 1, dropout 0.05 in self-attention (26.2M numbers), answers alone.

    unijax train --config configs/emu.py:pretrain --run-dir runs/emu
    unijax train --config configs/emu.py:painter --run-dir runs/painter
    unijax train --config configs/emu.py:instruct --run-dir runs/instruct

Our choices, where both are silent: a batch is counted in packed rows of 2048, 150B tokens in 10,000
steps and 31 captioned pictures a row of the pixel decoder's; sources are mixed within a step, half
of the captions before their picture; videos are pages of frames; the tower's last norm is left out,
as its features are; dropped conditions are zeros. The data is yours, as are the networks to start
from (docs/weights.md); LLaMA's table gets a row for each new id, the mean of its own.
"""

import dataclasses

from ml_collections import ConfigDict

from unijax.systems.emu import SIZES

GROUPS = ("language_model", "vision_model", "ln_visual", "cformer", "stu_regress_head")
STAGES = {
    "pretrain": {
        "model": "emu_14b", "steps": 10_000, "rows": 7168, "images": 16, "hardware": "a100:8*16",
        "rules": [
            {"pattern": "(vision_model|ln_visual)/", "lr_multiple": 0.4},
            {"pattern": "(language_model|stu_regress_head)/", "lr_multiple": 0.3},
            {"pattern": ""},
        ],
        "optimizer": {
            "learning_rate": 1e-4, "schedule": "cosine", "warmup_steps": 2_000, "b2": 0.98,
            "eps": 1e-6, "weight_decay": 0.05,
        },
    },
    "painter": {
        "model": "emu_14b_painter", "steps": 15_000, "rows": 64, "images": 31,
        "hardware": "a100:8*4",
        "rules": [{"pattern": "unet/"}, {"pattern": "", "frozen": True}],
        "optimizer": {
            "learning_rate": 1e-4, "schedule": "knots", "b2": 0.999, "weight_decay": 0.01,
            "knots": [
                {"step": 0, "share": 0.0},
                {"step": 5_000, "share": 1.0},
                {"step": 10_000, "share": 0.5, "curve": "constant"},
                {"step": 14_000, "share": 0.1, "curve": "constant"},
            ],
        },
    },
    "instruct": {
        "model": "emu_14b_instruct", "steps": 10_000, "rows": 128, "images": 16,
        "hardware": "a100:8*4",
        "rules": [{"pattern": r".*/lora_[ab]$"}, {"pattern": "", "frozen": True}],
        "optimizer": {
            "learning_rate": 1e-5, "schedule": "cosine", "warmup_steps": 300, "b2": 0.98,
            "eps": 1e-6, "weight_decay": 0.0,
        },
    },
}  # fmt: skip


def get_config(arg: str = "pretrain") -> ConfigDict:
    """`arg` is a stage: pretrain, painter or instruct."""
    stage = STAGES[arg]
    config = ConfigDict()
    config.reproduces = f"Emu, {arg}: arXiv 2307.05222 and its release"
    config.system = "emu"
    config.model = dataclasses.asdict(SIZES[stage["model"]])
    config.tokenizer = "data/tokenizer"
    config.init = {
        "pretrain": {
            "language_model": "data/llama_13b.safetensors",
            "vision_model": "data/eva_giant_clip.safetensors",
        },
        "painter": dict.fromkeys(GROUPS, "runs/emu")
        | {"unet": "data/emu_unet.safetensors", "autoencoder": "data/sd_vae.safetensors"},
        "instruct": dict.fromkeys(GROUPS, "runs/emu"),
    }[arg]
    config.dtype = "bfloat16"
    config.param_dtype = "float32"
    config.remat = "full"
    config.seed = 0
    config.stage = {
        "name": arg,
        "steps": stage["steps"],
        "rules": stage["rules"],
        "optimizers": {"main": {"b1": 0.9, "clip_norm": 1.0, **stage["optimizer"]}},
    }
    if arg == "instruct":
        adapter = {"pattern": "language_model/layers/self_attn/", "rank": 16, "alpha": 16.0}
        config.stage.lora = [{**adapter, "dropout": 0.05}]
    config.data = {
        "row_length": 2048,
        "rows": stage["rows"],
        "slots": {"image": stage["images"]},
        "template": "emu",
        "learn_prompts": arg == "pretrain",
        "groups": _groups(arg, "data"),
    }
    config.validation = {"batches": 1, "groups": _groups(arg, "data/validation")}
    config.mesh = {"data": -1, "fsdp": 32, "table": "fsdp"}
    config.hardware = stage["hardware"]
    config.loop = {"log_every": 50, "eval_every": 1_000, "save_every": 500, "keep": 3}
    return config.lock()


def _groups(stage: str, folder: str) -> list[dict]:
    def group(name: str, ratio: float, *sources: tuple[str, str]) -> dict:
        found = [
            {"name": f"{s}_{task}", "task": task, "kind": "jsonl", "path": f"{folder}/{s}.jsonl"}
            for s, task in sources
        ]
        return {"name": name, "ratio": ratio, "sources": found}

    if stage == "painter":  # LAION-COCO and LAION-Aesthetics, 7 : 2
        sources = group(
            "gen", 1.0, ("laion_coco", "caption_to_image"), ("laion_aesthetics", "caption_to_image")
        )
        for source, weight in zip(sources["sources"], (7.0, 2.0)):
            source["weight"] = weight
        return [sources]
    if stage == "instruct":
        return [
            group("text", 1.0, ("sharegpt", "chat"), ("alpaca", "chat")),
            group("und", 1.0, ("llava", "chat"), ("video_chat", "chat")),
        ]
    # Shares of a step: LAION-2B 128, LAION-COCO 128, MMC4 64, WebVid 16, YT-Storyboard-1B 16.
    pairs = ("laion_2b", "laion_coco")
    pages = group("und", 224.0, *((s, "image_to_caption") for s in pairs),
                  ("mmc4", "page"), ("webvid", "page"), ("yt_storyboard", "page"))  # fmt: skip
    for source, weight in zip(pages["sources"], (64.0, 64.0, 64.0, 16.0, 16.0)):
        source["weight"] = weight
    return [pages, group("gen", 128.0, *((s, "caption_to_image") for s in pairs))]

"""MetaQuery B, L and XL, with Sana or Stable Diffusion 1.5, every stage, by the paper or the code.

Reproduces: arXiv 2504.06256, sections 3 and 4, and facebookresearch/metaquery (`configs/`), which
differ: both are here. The frozen model is LLaVA-OneVision-0.5B (b), Qwen2.5-VL-3B (l) or 7B (xl);
256 queries with Sana 1.6B at 512 px, which trains too, 77 with SD1.5, which stays; a connector of
24 blocks. AdamW (0.9, 0.95), epsilon 1e-8, weight decay 0.1, clipping at 0.5, cosine with a least
rate.

    unijax train --config configs/metaquery.py:b,sana,pretrain --run-dir runs/metaquery
    unijax plan --config configs/metaquery.py:xl,sana,instruct,code

    stage     preset  data                   pictures a step  steps   rate          warm-up
    pretrain  paper   25M pairs, 8 epochs    4096             48,828  1e-4 to 1e-5  4,000
    pretrain  code    CC12M, 10 epochs       by device        below   below         5,000
    instruct  paper   2.4M pairs, 3 epochs   2048             3,515   5e-5 to 1e-6  400
    instruct  code    2.4M pairs, 10 epochs  by device        below   below         2,000
    edit      paper   1,000 steps            1024             1,000   1e-4 to 1e-5  100
    edit      code    OmniEdit, 5 epochs     by device        below   1e-4 to 1e-5  5,000

A device's pictures are those of the released configs: Sana 64, 32, 8 (b, l, xl), in instruction
tuning 16, 1, 1; SD1.5 128, 64, 16; devices are those that `hardware` names. Where the paper is
silent, rates are the code's. Words are left out in a tenth of the pairs; of instructions words in
[0, 0.2) and pictures in [0.1, 0.3) of one draw; of edits pictures in a tenth.

Our choices: rows hold four pictures at most; CC12M is counted as 11M pairs that are still there,
OmniEdit as 1.2M; pictures of Qwen2.5-VL are squares of 448 px, the least that the code allows.

The data is yours: every source is a JSONL file under data/ (docs/data.md has the format). Weights
come from others' directories, with fresh ones for the rest, into a run to start from
(`--init-from runs/parts`):

    unijax import --part llava=DIR --part generator=DIR --part autoencoder=DIR --tokenizer DIR \\
        --config configs/metaquery.py:b,sana,pretrain --run-dir runs/parts
"""

import dataclasses

from ml_collections import ConfigDict

from unijax.systems.metaquery import SIZES

# Devices of a step, and what they are.
HARDWARE = {"b": (32, "h100:8*4"), "l": (64, "h100:8*8"), "xl": (128, "h100:8*16")}
PER_DEVICE = {
    ("pretrain", "sana"): {"b": 64, "l": 32, "xl": 8},
    ("instruct", "sana"): {"b": 16, "l": 1, "xl": 1},
    ("edit", "sana"): {"b": 32, "l": 32, "xl": 8},
    **{(stage, "sd"): {"b": 128, "l": 64, "xl": 16} for stage in ("pretrain", "instruct", "edit")},
}
PAIRS = {  # and epochs
    ("pretrain", "paper"): (25_000_000, 8),
    ("pretrain", "code"): (11_000_000, 10),
    ("instruct", "paper"): (2_400_000, 3),
    ("instruct", "code"): (2_400_000, 10),
    ("edit", "paper"): (1_024_000, 1),
    ("edit", "code"): (1_200_000, 5),
}
BATCH = {"pretrain": 4096, "instruct": 2048, "edit": 1024}  # of the paper
WARMUP = {
    ("pretrain", "paper"): 4000,
    ("pretrain", "code"): 5000,
    ("instruct", "paper"): 400,
    ("instruct", "code"): 2000,
    ("edit", "paper"): 100,
    ("edit", "code"): 5000,
}
TEMPLATES = {"b": "llava_onevision", "l": "qwen2.5_vl", "xl": "qwen2.5_vl"}
PICTURES = 4  # to draw, of a row


def _rate(size: str, generator: str, stage: str) -> tuple[float, float]:
    """Peak and least."""
    if stage == "instruct":
        return (5e-5, 1e-6) if size == "b" else (1e-4, 1e-5)
    if (size, generator) == ("xl", "sana"):
        return 5e-5, 1e-6
    return 1e-4, 1e-5


def get_config(arg: str = "b,sana,pretrain") -> ConfigDict:
    """`arg` is `SIZE,GENERATOR,STAGE` or `SIZE,GENERATOR,STAGE,PRESET`: b, l or xl; sana or sd;
    pretrain, instruct or edit; paper (the default) or code."""
    size, generator, stage, *preset = arg.split(",")
    preset = preset[0] if preset else "paper"
    sizes = SIZES[f"metaquery_{size}_{generator}"]
    devices, hardware = HARDWARE[size]
    batch = BATCH[stage]
    if preset == "code":
        batch = PER_DEVICE[stage, generator][size] * devices
    pairs, epochs = PAIRS[stage, preset]
    rate, least = _rate(size, generator, stage)
    config = ConfigDict()
    config.reproduces = (
        f"MetaQuery-{size.upper()}, {generator}, {stage}: arXiv 2504.06256"
        if preset == "paper"
        else f"MetaQuery-{size.upper()}, {generator}, {stage}: facebookresearch/metaquery"
    )
    config.system = "metaquery"
    config.model = dataclasses.asdict(sizes)
    config.tokenizer = "data/tokenizer"
    frozen = ["language_model", "vision_model", "aligner"][: 2 if sizes.merges else 3]
    config.init = dict.fromkeys(frozen, "data/base") | {
        "generator": "data/generator.safetensors",
        "autoencoder": "data/autoencoder.safetensors",
    }
    config.dtype = "bfloat16"
    config.param_dtype = "float32"
    config.remat = "full"
    config.seed = 0
    still = [*frozen, "autoencoder"] + ["generator"] * (generator == "sd")
    config.stage = {
        "name": stage,
        "steps": pairs * epochs // batch,
        "rules": [*[{"pattern": f"{name}/", "frozen": True} for name in still], {"pattern": ""}],
        "optimizers": {
            "main": {
                "learning_rate": rate,
                "schedule": "cosine",
                "final_share": least / rate,
                "warmup_steps": WARMUP[stage, preset],
                "b1": 0.9,
                "b2": 0.95,
                "eps": 1e-8,
                "weight_decay": 0.1,
                "clip_norm": 0.5,
            }
        },
    }
    shown = {"pretrain": 0, "instruct": 6, "edit": PICTURES}[stage]
    # The frame of a prompt, 256 tokens of text, marks and queries; and the pictures that are shown.
    length = PICTURES * (sizes.queries + 320) + shown * (sizes.picture_tokens + 2)
    config.data = {
        "row_length": -(-length // 256) * 256,
        "rows": max(batch // PICTURES, devices),
        "slots": {"und": shown, "gen": PICTURES},
        "template": TEMPLATES[size],
        "p_first_sentence": 0.0,
        **{
            "pretrain": {"p_drop_condition": 0.1},
            "instruct": {"p_drop_condition": 0.2, "p_drop_images": 0.2, "p_drop_both": 0.1},
            "edit": {"p_drop_condition": 0.0, "p_drop_images": 0.1},
        }[stage],
        "groups": _groups("data", stage),
    }
    config.validation = {"batches": 2, "groups": _groups("data/validation", stage)}
    config.mesh = {"data": -1, "fsdp": 8, "table": "fsdp"}
    config.hardware = hardware
    config.loop = {"log_every": 50, "eval_every": 1_000, "save_every": 1_000, "keep": 3}
    return config.lock()


def _groups(folder: str, stage: str) -> list[dict]:
    source, task = {
        "pretrain": ("pairs", "generate"),
        "instruct": ("instructions", "draw"),
        "edit": ("edits", "draw"),
    }[stage]
    found = {"name": source, "task": task, "kind": "jsonl", "path": f"{folder}/{source}.jsonl"}
    return [{"name": "gen", "ratio": 1.0, "sources": [found]}]

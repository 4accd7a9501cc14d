"""Janus-Pro 1B and 7B, stages 1 to 3.

Reproduces: the Janus-Pro technical report, table 2 and sections 2.1-2.4, 3.1: what is trained,
learning rates, schedules, warm-up, steps, batch, ratios of understanding : text : generation,
context 4096 with packing, AdamW (0.9, 0.95), no weight decay, clipping at 1.

    unijax import --part llama=DEEPSEEK_LLM --part siglip=SIGLIP --part vq=VQ16 \\
        --config configs/janus_pro.py:1b,stage1 --run-dir runs/parts
    unijax train --config configs/janus_pro.py:1b,stage1 --init-from runs/parts --run-dir runs/s1
    unijax train --config configs/janus_pro.py:1b,stage2 --init-from runs/s1 --run-dir runs/s2
    unijax train --config configs/janus_pro.py:1b,stage3 --init-from runs/s2 --run-dir runs/s3

Hardware in the report: 16 nodes of 8 A100-40GB for 9 days (1B), 32 nodes for 14 days (7B).

Our choices, where the report is silent: epsilon of Adam 1e-8; a batch is counted in packed rows of
4096 tokens and the ratios in samples; documents of a row do not see each other; the code table
trains with the generation adaptor in stage 1, as it is new; norms and biases are not decayed;
images are cropped at the centre; end-of-image is not trained; at most 3 understood and 6 generated
images a row. Stage 2 was stopped early at 270,000 of 360,000 steps: pass --stop-at 270000. The data
is yours: every source is a JSONL file under data/ (docs/data.md has the format).
"""

import dataclasses

from ml_collections import ConfigDict

from unijax.systems.janus import SIZES

STAGES = {
    "stage1": {
        "frozen": ("language_model/", "vision_model/", "vqmodel/"),
        "learning_rate": 1e-3, "warmup_steps": 600, "steps": 20_000, "rows": 256,
        "ratio": (1, 0, 3),
    },
    "stage2": {
        "frozen": ("vision_model/", "vqmodel/"),
        "learning_rate": 1e-4, "warmup_steps": 5_000, "steps": 360_000, "rows": 512,
        "ratio": (2, 3, 5),
    },
    "stage3": {
        "frozen": ("vqmodel/",),
        "learning_rate": 4e-5, "warmup_steps": 0, "steps": {"1b": 80_000, "7b": 40_000},
        "rows": 128, "ratio": (5, 1, 4),
    },
}  # fmt: skip

SOURCES = {
    "stage1": {
        "und": [("sharegpt4v", "image_to_caption")],
        "text": [],
        "gen": [("imagenet", "category_to_image")],
    },
    "stage2": {
        "und": [("captions", "describe"), ("documents_charts", "chat"), ("interleaved", "page")],
        "text": [("text", "text")],
        "gen": [("text_to_image_real", "generate"), ("text_to_image_synthetic", "generate")],
    },
    "stage3": {
        "und": [("instructions_und", "chat")],
        "text": [("instructions_text", "chat")],
        "gen": [("instructions_gen", "generate")],
    },
}


def get_config(arg: str = "1b,stage1") -> ConfigDict:
    """`arg` is `SIZE,STAGE`: 1b or 7b, stage1 to stage3."""
    size, stage = arg.split(",")
    table = STAGES[stage]
    steps = table["steps"][size] if isinstance(table["steps"], dict) else table["steps"]
    config = ConfigDict()
    config.reproduces = f"Janus-Pro {size.upper()}, {stage}: technical report, table 2"
    config.system = "janus"
    config.model = dataclasses.asdict(SIZES[f"janus_pro_{size}"])
    config.tokenizer = "data/tokenizer"
    config.dtype = "bfloat16"
    config.param_dtype = "float32"
    config.remat = "full"
    config.seed = 0
    config.stage = {
        "name": stage,
        "steps": steps,
        "rules": [
            *({"pattern": p, "frozen": True} for p in table["frozen"]),
            {"pattern": ""},  # everything else trains
        ],
        "optimizers": {
            "main": {
                "learning_rate": table["learning_rate"],
                "schedule": "constant",
                "warmup_steps": table["warmup_steps"],
                "b1": 0.9,
                "b2": 0.95,
                "eps": 1e-8,
                "weight_decay": 0.0,
                "clip_norm": 1.0,
            }
        },
    }
    config.data = {
        "row_length": 4096,
        "rows": table["rows"],
        "slots": {"und": 3, "gen": 6},
        "template": "janus_pro",
        "groups": _groups(stage, table["ratio"], "data"),
    }
    config.validation = {"batches": 2, "groups": _groups(stage, table["ratio"], "data/validation")}
    # Parameters over the GPUs of a host, or a part of a TPU's torus (docs/plan.md).
    config.mesh = {"data": -1, "fsdp": 8, "table": "fsdp"}
    config.hardware = {"1b": "h100:8*8", "7b": "h100:8*16"}[size]
    config.loop = {"log_every": 50, "eval_every": 5_000, "save_every": 1_000, "keep": 3}
    return config.lock()


def _groups(stage: str, ratio: tuple, folder: str) -> list[dict]:
    return [
        {
            "name": group,
            "ratio": float(share),
            "sources": [
                {"name": name, "task": task, "kind": "jsonl", "path": f"{folder}/{name}.jsonl"}
                for name, task in SOURCES[stage][group]
            ],
        }
        for group, share in zip(("und", "text", "gen"), ratio)
    ]

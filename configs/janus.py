"""Janus 1.3B, stages 1 to 3.

Reproduces: arXiv 2410.13848, table 1, figure 3 and sections 3.2-3.4, 4.1-4.2: what is trained,
learning rates, schedules, warm-up, steps, batch, ratios of understanding : text : generation,
weight decay, AdamW (0.9, 0.95), clipping at 1, ImageNet alone in the first 120,000 steps of stage
2's generation and the other text-to-image sets alone in the last 60,000, a caption's first sentence
alone with probability 0.25, the condition replaced by pad with probability 0.1.

    unijax train --config configs/janus.py:stage1 --init-from runs/parts --run-dir runs/janus1
    unijax train --config configs/janus.py:stage2 --init-from runs/janus1 --run-dir runs/janus2
    unijax train --config configs/janus.py:stage3 --init-from runs/janus2 --run-dir runs/janus3

(`runs/parts`: parts by `unijax import`, as configs/janus_pro.py has it.)
Hardware in the paper: 16 nodes of 8 A100-40GB for 7 days.

Our choices, where the paper is silent: epsilon of Adam 1e-8; context 4096 with packing; a batch is
counted in packed rows and the ratios in samples; the cosine of stage 1 ends at zero; documents of a
row do not see each other; the code table trains with the generation adaptor in stage 1, as it is
new; norms and biases are not decayed; images are cropped at the centre; end-of-image is not
trained; at most 3 understood and 6 generated images a row. The data is yours: every source is a
JSONL file under data/ (docs/data.md has the format).
"""

import dataclasses

from ml_collections import ConfigDict

from unijax.systems.janus import SIZES

STAGES = {
    "stage1": {
        "frozen": ("language_model/", "vision_model/", "vqmodel/"),
        "learning_rate": 1e-3, "schedule": "cosine", "warmup_steps": 300, "steps": 10_000,
        "weight_decay": 0.0, "rows": 256, "ratio": (1, 0, 1),
    },
    "stage2": {
        "frozen": ("vision_model/", "vqmodel/"),
        "learning_rate": 1e-4, "schedule": "constant", "warmup_steps": 5_000, "steps": 180_000,
        "weight_decay": 0.0, "rows": 512, "ratio": (2, 3, 5),
    },
    "stage3": {
        "frozen": ("vqmodel/",),
        "learning_rate": 2e-5, "schedule": "constant", "warmup_steps": 0, "steps": 24_000,
        "weight_decay": 0.1, "rows": 256, "ratio": (7, 3, 10),
    },
}  # fmt: skip

# (name, task, first step, step before which it ends; 0: never)
SOURCES = {
    "stage1": {
        "und": [("sharegpt4v", "image_to_caption", 0, 0)],
        "text": [],
        "gen": [("imagenet", "category_to_image", 0, 0)],
    },
    "stage2": {
        "und": [("captions", "describe", 0, 0), ("tables_charts", "chat", 0, 0),
                ("interleaved", "page", 0, 0)],
        "text": [("text", "text", 0, 0)],
        "gen": [("imagenet", "category_to_image", 0, 120_000),
                ("text_to_image", "generate", 120_000, 0)],
    },
    "stage3": {
        "und": [("instructions_und", "chat", 0, 0)],
        "text": [("instructions_text", "chat", 0, 0)],
        "gen": [("instructions_gen", "generate", 0, 0)],
    },
}  # fmt: skip


def get_config(stage: str = "stage1") -> ConfigDict:
    """`stage` is stage1, stage2 or stage3."""
    table = STAGES[stage]
    config = ConfigDict()
    config.reproduces = f"Janus 1.3B, {stage}: arXiv 2410.13848, table 1"
    config.system = "janus"
    config.model = dataclasses.asdict(SIZES["janus_1b"])
    config.tokenizer = "data/tokenizer"
    config.dtype = "bfloat16"
    config.param_dtype = "float32"
    config.remat = "full"
    config.seed = 0
    config.stage = {
        "name": stage,
        "steps": table["steps"],
        "rules": [
            *({"pattern": p, "frozen": True} for p in table["frozen"]),
            {"pattern": ""},  # everything else trains
        ],
        "optimizers": {
            "main": {
                "learning_rate": table["learning_rate"],
                "schedule": table["schedule"],
                "warmup_steps": table["warmup_steps"],
                "b1": 0.9,
                "b2": 0.95,
                "eps": 1e-8,
                "weight_decay": table["weight_decay"],
                "clip_norm": 1.0,
            }
        },
    }
    config.data = {
        "row_length": 4096,
        "rows": table["rows"],
        "slots": {"und": 3, "gen": 6},
        "template": "janus",
        "groups": _groups(stage, table["ratio"], "data"),
    }
    config.validation = {"batches": 1, "groups": _groups(stage, table["ratio"], "data/validation")}
    # Parameters over the GPUs of a host, or a part of a TPU's torus (docs/plan.md).
    config.mesh = {"data": -1, "fsdp": 8, "table": "fsdp"}
    config.hardware = "h100:8*8"
    config.loop = {"log_every": 50, "eval_every": 5_000, "save_every": 1_000, "keep": 3}
    return config.lock()


def _groups(stage: str, ratio: tuple, folder: str) -> list[dict]:
    return [
        {
            "name": group,
            "ratio": float(share),
            "sources": [
                {"name": name, "task": task, "kind": "jsonl", "path": f"{folder}/{name}.jsonl",
                 "from_step": start, "until_step": stop}
                for name, task, start, stop in SOURCES[stage][group]
            ],
        }
        for group, share in zip(("und", "text", "gen"), ratio)
    ]  # fmt: skip

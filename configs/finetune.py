"""Fine-tuning an imported Janus, or a run of any system that reads and draws, on your own records.

    unijax import PATH_TO_JANUS_PRO_1B --run-dir runs/pro1b
    unijax finetune --config configs/finetune.py --init-from runs/pro1b --data mine.jsonl \\
        --run-dir runs/mine

Follows stage 3 of Janus-Pro (technical report, table 2): everything but the image tokenizer trains
(of other systems, all that their own fine-tuning trains: LMFusion's text side stays as it is),
constant learning rate, prompts masked, conditions dropped with probability 0.1, understanding :
text : generation 5 : 1 : 4 as far as the data has them. Our choices: a learning rate of 1e-5 with
100 steps of warm-up, 8 rows a step, 1000 steps. The precision, the length of a row (2048 tokens at
most), the pictures of a row, what of frozen encoders is kept and what is computed again follow the
checkpoint, the data and the device; each is said with its reason, and a key of the command line
decides it. What a run on a given set should look like is in docs/results.md. With --held-out FILE,
validation losses and samples of records that are not trained on.
"""

import dataclasses

from ml_collections import ConfigDict

from unijax.systems.janus import SIZES


def get_config(arg: str = "") -> ConfigDict:
    """Takes no argument: the sizes are the checkpoint's."""
    config = ConfigDict()
    config.reproduces = "stage 3 of Janus-Pro on your own records"
    config.system = "janus"
    config.model = dataclasses.asdict(SIZES["janus_pro_1b"])  # replaced by the checkpoint's
    config.tokenizer = ""  # the checkpoint's
    config.dtype = "bfloat16"
    config.param_dtype = "float32"
    config.remat = "full"
    config.follow = ("dtype", "data.row_length", "data.slots", "cache_frozen", "remat")
    config.seed = 0
    config.stage = {
        "name": "finetune",
        "steps": 1000,
        "rules": [],  # what the system does not keep as it is trains
        "optimizers": {
            "main": {
                "learning_rate": 1e-5,
                "schedule": "constant",
                "warmup_steps": 100,
                "b1": 0.9,
                "b2": 0.95,
                "eps": 1e-8,
                "weight_decay": 0.0,
                "clip_norm": 1.0,
            }
        },
    }
    config.data = {
        "row_length": 2048,
        "rows": 8,
        "slots": {"und": 3, "gen": 3},
        "template": "janus_pro",
        "groups": [
            {"name": name, "ratio": ratio, "sources": []}
            for name, ratio in (("und", 5.0), ("text", 1.0), ("gen", 4.0))
        ],
    }
    config.validation = {"batches": 4, "samples": 4}  # of --held-out
    config.mesh = {"data": 1, "fsdp": -1, "table": "fsdp"}
    config.hardware = "h100:8"
    config.loop = {"log_every": 10, "eval_every": 100, "save_every": 200, "keep": 2}
    return config.lock()

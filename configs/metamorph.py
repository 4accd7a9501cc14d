"""MetaMorph: Llama 3.1 8B with SigLIP so400m, its two stages, and the visualiser.

Reproduces: arXiv 2412.14164 and facebookresearch/metamorph: sizes, what is trained, learning rates,
batches, warm-up over 3% of the steps, cosine, no weight decay, context 4096; the visualiser's rate,
schedule (a warm-up shaped like a logarithm to step 4,000, then linear towards step 16,000), 12,000
steps, and how often its condition is dropped. The README and the scripts of the release differ:
both are here, as is the default of the visualiser's flags.

    unijax train --config configs/metamorph.py:visualiser,script --run-dir runs/visualiser
    unijax train --config configs/metamorph.py:connector,readme --run-dir runs/connector
    unijax train --config configs/metamorph.py:vpit,readme --init-from runs/connector \\
        --run-dir runs/vpit

Our choices, where both are silent: a batch is counted in packed rows, eight conversations a row;
the scripts' batches are those at which their rates lie on the README's (they go as the root of the
batch); steps are about an epoch of the data that the paper names; the connector stage trains the
whole table of input embeddings, as LLaVA's code does where it adds marks; AdamW's moments and
clipping; a tenth of the prompts is left out, which nothing here needs. Visualiser: its batch. The
data is yours, as are the networks to start from, as files of weights (docs/weights.md); Llama's
table gets a row for each mark, the mean of its own.
"""

import dataclasses

from ml_collections import ConfigDict

from unijax.systems.metamorph import SIZES
from unijax.systems.visualiser import SIZES as VISUALISERS

# (learning rate, conversations a step) by stage and preset; steps by stage.
RATES = {
    ("connector", "readme"): (3.74e-5, 448),
    ("connector", "script"): (4.9e-5, 768),
    ("vpit", "readme"): (6.93e-5, 1536),
    ("vpit", "script"): (3.74e-5, 448),
}
STEPS = {"connector": 5_000, "vpit": 8_000}
DROP = {"script": 0.8, "readme": 0.7, "default": 0.1}  # of the visualiser's condition
FROZEN = "(vision_model|condition|unet|autoencoder)/"


def get_config(arg: str = "vpit,readme") -> ConfigDict:
    """`arg` is `STAGE,PRESET`: connector or vpit with readme or script; visualiser with default
    too."""
    stage, preset = arg.split(",")
    config = ConfigDict()
    config.reproduces = f"MetaMorph, {stage} ({preset}): arXiv 2412.14164 and its release"
    config.dtype = "bfloat16"
    config.param_dtype = "float32"
    config.remat = "full"
    config.seed = 0
    config.mesh = {"data": -1, "fsdp": 8, "table": "fsdp"}
    config.loop = {"log_every": 50, "eval_every": 1_000, "save_every": 500, "keep": 3}
    return _visualiser(config, preset) if stage == "visualiser" else _tuned(config, stage, preset)


def _tuned(config: ConfigDict, stage: str, preset: str) -> ConfigDict:
    rate, batch = RATES[stage, preset]
    config.system = "metamorph"
    config.model = dataclasses.asdict(SIZES["metamorph_8b"])
    config.tokenizer = "data/tokenizer"
    config.init = {
        "language_model": "data/llama3.1_8b.safetensors",
        "vision_model": "data/siglip_so400m.safetensors",
        "condition": "runs/visualiser",
        "unet": "runs/visualiser",
        "autoencoder": "runs/visualiser",
    }
    rules = [{"pattern": FROZEN, "frozen": True}]
    if stage == "connector":
        rules += [
            {"pattern": "language_model/embed_tokens/"},
            {"pattern": "(language_model|vision_head)/", "frozen": True},
        ]
    config.stage = {
        "name": stage,
        "steps": STEPS[stage],
        "rules": [*rules, {"pattern": ""}],
        "optimizers": {
            "main": {
                "learning_rate": rate,
                "schedule": "cosine",
                "warmup_steps": round(0.03 * STEPS[stage]),
                "b1": 0.9,
                "b2": 0.999,
                "weight_decay": 0.0,
                "clip_norm": 1.0,
            }
        },
    }
    config.data = {
        "row_length": 4096,
        "rows": batch // 8,
        "slots": {"image": 24},
        "template": "llama3",
        "groups": _groups(stage, "data"),
    }
    config.validation = {"batches": 2, "groups": _groups(stage, "data/validation")}
    config.hardware = "h100:8*8"
    return config.lock()


def _groups(stage: str, folder: str) -> list[dict]:
    """Captions for the connector; the paper's mixture, 70 : 10 : 20 by a secondary account."""

    def group(name: str, ratio: float, *sources: str) -> dict:
        found = [
            {"name": s, "task": "chat", "kind": "jsonl", "path": f"{folder}/{s}.jsonl"}
            for s in sources
        ]
        return {"name": name, "ratio": ratio, "sources": found}

    if stage == "connector":
        return [group("und", 1.0, "connector")]
    return [
        group("und", 70.0, "cambrian", "video_questions"),
        group("text", 10.0, "visual_thinking"),
        group("gen", 20.0, "metaclip", "frame_prediction", "edits"),
    ]


def _visualiser(config: ConfigDict, preset: str) -> ConfigDict:
    sizes = VISUALISERS["metamorph_visualiser"]
    painter = dataclasses.replace(sizes.visualiser.painter, drop=DROP[preset])
    visualiser = dataclasses.replace(sizes.visualiser, painter=painter)
    config.system = "visualiser"
    config.model = dataclasses.asdict(dataclasses.replace(sizes, visualiser=visualiser))
    config.tokenizer = ""
    config.init = {
        "vision_model": "data/siglip_so400m.safetensors",
        "unet": "data/sd15_unet.safetensors",
        "autoencoder": "data/sd_vae.safetensors",
    }
    config.stage = {
        "name": "visualiser",
        "steps": 12_000,
        "rules": [{"pattern": "(vision_model|autoencoder)/", "frozen": True}, {"pattern": ""}],
        "optimizers": {
            "main": {
                "learning_rate": 1e-5,
                "schedule": "knots",
                "knots": [
                    {"step": 0, "share": 0.0},
                    {"step": 4_000, "share": 1.0, "curve": "logarithmic"},
                    {"step": 16_000, "share": 0.0},
                ],
                "b1": 0.9,
                "b2": 0.999,
                "weight_decay": 0.01,
                "clip_norm": 1.0,
            }
        },
    }

    def pictures(folder: str) -> list[dict]:
        path = f"{folder}/metaclip.jsonl"
        return [{"name": "metaclip", "task": "describe", "kind": "jsonl", "path": path}]

    config.data = {"sources": pictures("data"), "size": 512, "batch": 512}
    held = [{"name": "und", "ratio": 1.0, "sources": pictures("data/validation")}]
    config.validation = {"batches": 2, "samples": 4, "groups": held}
    config.hardware = "h100:8*4"
    return config.lock()

"""The semantic tokenizer of Janus's ablations B and C: VQ-16 that learns what SigLIP sees, too.

    unijax train --config configs/semantic_tokenizer.py:imagenet --run-dir runs/se1
    unijax train --config configs/semantic_tokenizer.py:more --init-from runs/se1 --run-dir runs/se2
    unijax train --config configs/semantic_tokenizer.py:demo --run-dir runs/se      # small, on CPU

Reproduces: arXiv 2410.13848, appendix A: a causal ViT of 12 layers, 12 heads and width 768 behind
the codes, 0.25 (1 - cosine) with the features of SigLIP-L/16-384 beside LlamaGen's terms, a
constant learning rate of 1e-4, batch 128; ImageNet-1k for 40 epochs, then one of 50M pictures.
LlamaGen's recipe (arXiv 2406.06525, section 3.1) gives the rest: Adam (0.9, 0.95), clipping at 1,
the discriminator from step 20,000 on.

`demo` reproduces nothing: the tokenizer of configs/vq_demo.py, pictures of 64 pixels, the shipped
understanding encoder as its teacher, which is trained here in less than half an hour.

The data is yours: a JSONL file each under data/ (docs/data.md), and SigLIP as a file of weights.
"""

import dataclasses
import pathlib

from ml_collections import ConfigDict

from unijax.main.config import load
from unijax.models.patchgan import PatchGANConfig
from unijax.models.semantic import SemanticConfig
from unijax.models.siglip import SIZES as SIGLIP
from unijax.models.vqgan import SIZES as VQ
from unijax.systems import micro

BATCH = 128
STEPS = {"imagenet": 40 * 1_281_167 // BATCH, "more": 50_000_000 // BATCH}
# Of the demo: as wide as the tower that it learns from.
SMALL = SemanticConfig(128, 512, 4, 4)


def get_config(stage: str = "imagenet") -> ConfigDict:
    """`stage` is imagenet, more or demo."""
    return (_demo() if stage == "demo" else _published(stage)).lock()


def _published(stage: str) -> ConfigDict:
    config = ConfigDict()
    config.reproduces = f"Janus's semantic tokenizer, {stage}: arXiv 2410.13848, appendix A"
    config.system = "tokenizer"
    config.model = {
        "vq": dataclasses.asdict(VQ["vq_16"]),
        "discriminator": dataclasses.asdict(PatchGANConfig()),
        # The second stage goes on with a discriminator that has learned.
        "adversarial_start": 20_000 if stage == "imagenet" else 0,
        "semantic": dataclasses.asdict(SemanticConfig()),
        "teacher": dataclasses.asdict(SIGLIP["siglip_large_patch16_384"]),
    }
    config.tokenizer = ""
    config.seed = 0
    adam = {"schedule": "constant", "warmup_steps": 0, "b1": 0.9, "b2": 0.95,
            "weight_decay": 0.0, "clip_norm": 1.0, "learning_rate": 1e-4}  # fmt: skip
    config.init = {"teacher": "data/siglip_large.safetensors:vision_model"}
    config.stage = {
        "name": stage,
        "steps": STEPS[stage],
        "rules": [
            {"pattern": "(perceptual|teacher)/", "frozen": True},
            {"pattern": "discriminator/", "optimizer": "discriminator"},
            {"pattern": "", "optimizer": "generator"},
        ],
        "optimizers": {"generator": adam, "discriminator": adam},
    }
    source = {"name": stage, "task": "describe", "kind": "jsonl", "path": f"data/{stage}.jsonl"}
    config.data = {"sources": [source], "size": 384, "batch": BATCH}
    held_out = {**source, "path": f"data/validation/{stage}.jsonl"}
    groups = [{"name": "und", "ratio": 1.0, "sources": [held_out]}]
    config.validation = {"batches": 8, "samples": 24, "groups": groups}
    config.mesh = {"data": -1, "fsdp": 1, "table": "data"}
    config.hardware = "h100:8"
    config.loop = {"log_every": 100, "eval_every": 10_000, "save_every": 2_000, "keep": 2}
    return config


def _demo() -> ConfigDict:
    config = load(str(pathlib.Path(__file__).with_name("vq_demo.py"))).unlock()
    config.reproduces = "Janus's semantic tokenizer, small"
    config.model.semantic = dataclasses.asdict(SMALL)
    config.model.teacher = dataclasses.asdict(micro.VISION)
    config.init = {
        "generator": "assets/weights/vq_demo.safetensors:vqmodel",
        "teacher": "assets/weights/siglip_demo.safetensors:vision_model",
    }
    config.stage.name, config.stage.steps = "semantic", 1200
    config.stage.rules = [
        {"pattern": "teacher/", "frozen": True},
        {"pattern": "", "optimizer": "generator"},
    ]
    config.stage.optimizers.generator.learning_rate = 1e-3
    return config

"""How far apart twins must be, and what the text side may learn: LMFusion's ablation, small.

    python -m bench.lmfusion_study --dir runs/lmfusion_study   # all of it; repeat to go on
    unijax train --config configs/lmfusion_study.py:base --run-dir runs/lmfusion_study/base
    unijax sweep --config configs/lmfusion_study.py:deep,0 --dir runs/lmfusion_study/deep_0

After arXiv 2412.15188, section 5: separation of none (all weights are shared: Transfusion), the
MLPs (shallow) or all (deep), and the rate of the text side as a share of the images' (0, 0.1, 1).
What is shared is the text side's, so at none and 0 only the image layers learn. Half the tokens are
text, as in the paper's; every arm begins from one base, which has read the same words before, and
sees the same rows in the same order. Seeds are of the image layers and of all noise. Reproduces
nothing published: sizes, data and rates are our choice. With "_small" behind it, minutes.
"""

import dataclasses
import pathlib

from ml_collections import ConfigDict

from unijax.main.config import load
from unijax.scaling.ladder import rung
from unijax.systems.lmfusion import LMFusionConfig

WIDTH = 96
SEPARATIONS, RATIOS = ("none", "shallow", "deep"), ("0", "0.1", "1")
DRAWINGS, HELD_OUT = 20_000, 600
TOKENS = 5e5
# Of as much compute, where the text side learns nothing and costs the less.
FROZEN_TOKENS = {"none": 7.4e5, "shallow": 7.06e5, "deep": 6.9e5}


def get_config(arg: str = "deep,0") -> ConfigDict:
    """`arg`: base, or `SEPARATION,RATIO`; either with _small."""
    arm, small = arg.removesuffix("_small"), arg.endswith("_small")
    config = load(str(pathlib.Path(__file__).with_name("transfusion_demo.py"))).unlock()
    config.reproduces = "the question of arXiv 2412.15188, section 5, at micro scale"
    text = rung("transfusion_micro", WIDTH).config.text
    config.model.text = dataclasses.asdict(text)
    config.stage.name = arm.replace(",", "_")
    config.stage.steps = 2000
    config.stage.optimizers.main.learning_rate = 2e-3
    config.data.learn_prompts = False
    config.data.rows, config.data.unit = 2, "tokens"
    config.validation.update(batches=64, samples=0)
    config.loop = {"log_every": 10, "eval_every": 0, "save_every": 1000, "keep": 1,
                   "writers": ("jsonl",)}  # fmt: skip
    if small:
        config.stage.optimizers.main.warmup_steps = 2
        config.stage.steps = 4
        config.validation.batches = 2
    for of, split in ((config.data, "train"), (config.validation, "validation")):
        of.groups = _groups(split, arm != "base", small)
    if arm == "base":
        config.cache_frozen, config.data.slots = False, {}  # no picture is seen
        return config.lock()
    separation, ratio = arm.split(",")
    if separation not in SEPARATIONS or ratio not in RATIOS:
        raise ValueError(f"{arg}: one of {SEPARATIONS}, a comma, one of {RATIOS}")
    config.init.language_model = "runs/lmfusion_study/base:language_model"
    if separation != "none":
        config.system = "lmfusion"
        config.model.separation = separation
        config.model.guidance = LMFusionConfig.guidance
        config.init.image_twin = ":language_model"
    side = {"pattern": "language_model/"}
    side |= {"lr_multiple": float(ratio)} if float(ratio) else {"frozen": True}
    config.stage.rules = [config.stage.rules[0], side, {"pattern": ""}]
    return config.lock()


def get_sweep(arg: str = "deep,0") -> ConfigDict:
    """One size; of arms with a frozen text side two lengths, of equal tokens and equal compute."""
    small = arg.endswith("_small")
    separation, ratio = arg.removesuffix("_small").split(",")
    tokens = (TOKENS, FROZEN_TOKENS[separation]) if ratio == "0" else (TOKENS,)
    return ConfigDict(
        {
            "kind": "tokens",
            "ladder": "transfusion_micro",
            "widths": (WIDTH,),
            "tokens": [count / 125 for count in tokens] if small else tokens,
            "seeds": (0, 1) if small else (0, 1, 2),
        }
    )


def _groups(split: str, pictures: bool, small: bool) -> list[dict]:
    limit = {True: 100, False: DRAWINGS if split == "train" else HELD_OUT}[small]
    words = {"name": "words", "task": "text", "kind": "shipped", "path": "text", "split": split}
    scenes = {"name": "scenes", "task": "generate", "kind": "scenes", "split": split,
              "limit": limit}  # fmt: skip
    groups = [{"name": "text", "ratio": 1.0, "sources": [words]}]
    if pictures:
        groups.append({"name": "gen", "ratio": 1.0, "sources": [scenes]})
    return groups

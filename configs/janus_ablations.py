"""Janus's ablations: which encoder, for what (arXiv 2410.13848, table 5 and section 4.5).

| id | for understanding | for what is drawn | trained on |
|---|---|---|---|
| A | VQ | VQ | both |
| B | the semantic tokenizer | the semantic tokenizer | both |
| C | the semantic tokenizer | - | understanding |
| D | SigLIP | VQ: Janus | both |
| E | SigLIP | - | understanding |
| F | - | VQ | generation |

    unijax train --config configs/janus_ablations.py:B,stage2 --init-from runs/b1 --run-dir runs/b2
    unijax train --config configs/janus_ablations.py:B,demo --run-dir runs/b       # small, on CPU
    python -m bench.encoder_study --dir runs/encoders       # all of them at micro scale, with seeds

Stages, data and rates are those of configs/janus.py. What is left out is left out of the data
alone: the part that is kept is seen as often a step's rows as in D, and for as many steps. The
tokenizers of A, B and C are frozen in every stage, as no gradient goes through codes; of B and C
what stands behind the codes trains where SigLIP does, in stage 3. `data/se.safetensors` holds the
semantic tokenizer (configs/semantic_tokenizer.py), `data/vq.safetensors` LlamaGen's.

`demo` is the same question of the systems of configs/janus_demo.py, whose encoders are frozen;
`runs/se` is a run of configs/semantic_tokenizer.py:demo. `micro` (`micro_small`: minutes) is the
sweep of configs/scaling_together.py over three seeds, D, E and F being its arms.
"""

import dataclasses
import pathlib

from ml_collections import ConfigDict

from unijax.main.config import load
from unijax.models.semantic import CodesConfig, SemanticConfig
from unijax.models.vqgan import VQConfig

CODES = ("A", "B", "C")
TRAINED_ON = {"C": "und", "E": "und", "F": "gen"}  # the others: both
MICRO = {"und": "understanding", "gen": "generation", "both": "together"}


def get_config(arg: str = "B,stage3") -> ConfigDict:
    """`arg` is `ID,STAGE`: A to F; stage1 to stage3, demo, micro or micro_small."""
    letter, stage = arg.split(",")
    kept = TRAINED_ON.get(letter, "both")
    micro, small = stage.startswith("micro"), not stage.startswith("stage")
    file = "scaling_together.py" if micro else "janus_demo.py" if small else "janus.py"
    argument = _micro(stage, kept) if micro else "" if small else stage
    here = pathlib.Path(__file__).with_name(file)
    config = load(f"{here}:{argument}" if argument else str(here)).unlock()
    config.reproduces = f"Janus's ablation {letter}, {stage}: arXiv 2410.13848, table 5"
    if letter in CODES:
        _read_codes(config, letter, small)
    if kept != "both" and not micro:
        for of in (config.data, config.validation):
            of.groups = [g for g in of.groups if g["name"] in (kept, "text")]
    return config.lock()


def get_sweep(arg: str = "B,micro") -> ConfigDict:
    """That of configs/scaling_together.py."""
    letter, stage = arg.split(",")
    argument = _micro(stage, TRAINED_ON.get(letter, "both"))
    here = pathlib.Path(__file__).with_name("scaling_together.py")
    return load(f"{here}:{argument}", "get_sweep")


def _micro(stage: str, kept: str) -> str:
    return MICRO[kept] + stage.removeprefix("micro")


def _read_codes(config: ConfigDict, letter: str, small: bool) -> None:
    semantic = None
    if letter != "A":
        semantic = SemanticConfig(128, 512, 4, 4) if small else SemanticConfig()
    tower = CodesConfig(VQConfig(**config.model.vq), semantic)
    config.model.vision = ConfigDict(dataclasses.asdict(tower))
    config.model.one_encoder = letter == "B"
    tokenizer = "data/se.safetensors"
    if letter == "A":
        tokenizer = "assets/weights/vq_demo.safetensors" if small else "data/vq.safetensors"
    elif small:
        tokenizer = "runs/se"
    group = "vqmodel" if letter == "A" else "generator"
    config.init = {
        "vision_model/vqmodel": f"{tokenizer}:{group}",
        "vqmodel": ":vision_model/vqmodel",
    }
    if semantic is not None:
        config.init["vision_model/semantic"] = f"{tokenizer}:semantic"
    if not any(rule["pattern"] == "vision_model/" for rule in config.stage.rules):
        frozen = {"pattern": "vision_model/vqmodel/", "frozen": True}
        config.stage.rules = [frozen, *config.stage.rules]

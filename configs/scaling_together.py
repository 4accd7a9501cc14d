"""Does training understanding and generation together help or hurt each? Janus's ablation, small.

    unijax sweep --config configs/scaling_together.py:together --dir runs/together
    unijax sweep --config configs/scaling_together.py:understanding --dir runs/understanding
    unijax sweep --config configs/scaling_together.py:generation --dir runs/generation

After arXiv 2410.13848, table 5, experiments D (both), E (understanding alone) and F (generation
alone), where "the kept part runs the same number of steps". Here both have one row of a step each,
on average, in D, and the one row of a step in E and F: equal steps, equal held-out rows, and nearly
equal tokens of each kind (a row of questions alone leaves 10% more of itself empty). Three seeds of
initialisation; the order of the data is one. The rest is that of configs/scaling_micro.py, without
its words. With "_small" behind it, minutes.
"""

import pathlib

from ml_collections import ConfigDict

from unijax.main.config import load

KEPT = {"together": ("und", "gen"), "understanding": ("und",), "generation": ("gen",)}


def get_config(arg: str = "together") -> ConfigDict:
    """`arg`: together, understanding or generation, or one of them with _small."""
    small = ":small" * arg.endswith("_small")
    config = load(str(pathlib.Path(__file__).with_name("scaling_micro.py")) + small).unlock()
    kept = KEPT[arg.removesuffix("_small")]
    config.reproduces = "the question of arXiv 2410.13848, table 5, D to F, at micro scale"
    config.data.unit = "tokens"
    config.data.rows = len(kept)
    config.data.groups = _groups(config.data.groups, kept)
    config.validation.groups = _groups(config.validation.groups, KEPT["together"])
    config.validation.batches = (2 if small else 128) // len(kept)
    return config.lock()


def get_sweep(arg: str = "together") -> ConfigDict:
    """1,000 steps of one size."""
    small = arg.endswith("_small")
    tokens = 1.02e6 if arg.startswith("together") else 5e5
    return ConfigDict(
        {
            "kind": "tokens",
            "ladder": "micro",
            "widths": (64,),
            "mup_width": 32,
            "tokens": (tokens / 50 if small else tokens,),
            "seeds": (0, 1) if small else (0, 1, 2),
        }
    )


def _groups(groups, kept: tuple[str, ...]) -> list:
    """As many tokens of each kind."""
    chosen = [g.unlock() if isinstance(g, ConfigDict) else dict(g) for g in groups]
    return [{**g, "ratio": 1.0} for g in chosen if g["name"] in kept]

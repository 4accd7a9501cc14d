"""What data seen four times is worth at micro scale: a run of the ladder on a quarter of its data.

    unijax sweep --config configs/scaling_epochs.py --dir runs/epochs

Width 48 for 6,290 steps, as a run of configs/scaling_micro.py that sees no document twice; here the
pool gives out after a quarter of the steps. Size, tokens, compute and held-out rows are equal. With
"small", minutes.
"""

import pathlib

from ml_collections import ConfigDict

from unijax.main.config import load

LIMITS = {"questions": 6_520, "descriptions": 2_195, "words": 4_350, "scenes": 8_690}
SMALL = {"questions": 60, "descriptions": 20, "words": 40, "scenes": 80}


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: nothing, or "small"."""
    small = {"": "", "small": ":small"}[arg]
    config = load(str(pathlib.Path(__file__).with_name("scaling_micro.py")) + small).unlock()
    for group in config.data.groups:
        for source in group["sources"]:
            source["limit"] = (SMALL if small else LIMITS)[source["name"]]
    return config.lock()


def get_sweep(arg: str = "") -> ConfigDict:
    """One run of four passes."""
    return ConfigDict(
        {
            "kind": "epochs",
            "ladder": "micro",
            "widths": (48,),
            "mup_width": 32,
            "epochs": (4.0,),
            "unique_tokens": 9_000 if arg == "small" else 1_607_000,
        }
    )

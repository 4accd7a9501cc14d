"""The learning rate of the micro study: found at width 32, and whether it holds at others.

    unijax sweep --config configs/scaling_rate.py:mup --dir runs/rate_mup
    unijax sweep --config configs/scaling_rate.py:standard --dir runs/rate_standard

Two sweeps over widths and learning rates at one length: with the maximal-update parametrisation,
and with the standard one, where every width takes the same rate and the same initial scale. At
width 32 both would be the same runs, so the second sweep has the other widths alone. Everything
else is that of configs/scaling_micro.py. With "_small" behind it, minutes.
"""

import pathlib

from ml_collections import ConfigDict

from unijax.main.config import load

RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2)
MUP_WIDTH = {"mup": 32, "standard": 0}


def get_config(arg: str = "mup") -> ConfigDict:
    """`arg`: mup or standard, or one of them with _small."""
    small = ":small" * arg.endswith("_small")
    return load(str(pathlib.Path(__file__).with_name("scaling_micro.py")) + small)


def get_sweep(arg: str = "mup") -> ConfigDict:
    """Up to 25 times as many weights in a layer as at the width that the rates are of."""
    small = arg.endswith("_small")
    widths = (32, 48) if small else (32, 64, 128, 160)
    mup_width = MUP_WIDTH[arg.removesuffix("_small")]
    return ConfigDict(
        {
            "kind": "tokens",
            "ladder": "micro",
            "widths": widths if mup_width else widths[1:],
            "mup_width": mup_width,
            "tokens": (1e4 if small else 5e5,),
            "learning_rates": RATES[3:5] if small else RATES,
        }
    )

"""Ladders of LLaVAFusion: micro decoders with twins, over the shipped tower and autoencoder."""

import dataclasses

from unijax.core.ladder import Ladder, Rung
from unijax.systems import micro
from unijax.systems.llavafusion import LLaVAFusionConfig
from unijax.systems.lmfusion_ladders import LADDERS as LMFUSION


def _micro(width: int) -> Rung:
    rung = LMFUSION["lmfusion_micro"].rung(width)
    fields = {f.name: getattr(rung.config, f.name) for f in dataclasses.fields(rung.config)}
    config = LLaVAFusionConfig(**fields, vision=micro.VISION, resize="pad", begins=True)
    return dataclasses.replace(rung, recipe="llavafusion", config=config)


LADDERS = {"llavafusion_micro": Ladder(_micro, micro.WIDTHS, micro.MULTIPLE)}

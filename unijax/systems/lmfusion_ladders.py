"""Ladders of LMFusion: micro decoders with their twins, over the shipped autoencoder."""

import dataclasses

from unijax.core.ladder import Ladder, Rung
from unijax.systems import micro
from unijax.systems.lmfusion import LMFusionConfig
from unijax.systems.transfusion_ladders import LADDERS as TRANSFUSION


def _micro(width: int) -> Rung:
    rung = TRANSFUSION["transfusion_micro"].rung(width)
    fields = {f.name: getattr(rung.config, f.name) for f in dataclasses.fields(rung.config)}
    del fields["guidance"]  # LMFusion has its own
    config = LMFusionConfig(**fields)
    return dataclasses.replace(rung, recipe="lmfusion", config=config)


LADDERS = {"lmfusion_micro": Ladder(_micro, micro.WIDTHS, micro.MULTIPLE)}

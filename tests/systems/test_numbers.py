"""Numbers of the recipes' configs that nothing could be trained or drawn with."""

import dataclasses

import pytest

from tests.systems import (
    test_chameleon,
    test_emu,
    test_kl_tokenizer,
    test_lmfusion,
    test_metamorph,
    test_metaquery,
    test_painter,
    test_transfusion,
)
from unijax.core.errors import UserError

CONFIGS = {
    "chameleon": (test_chameleon.SYSTEM.config, "z_weight", "guidance"),
    "emu": (test_emu.CONFIG, "regression_weight", "noise_weight"),
    "lmfusion": (test_lmfusion.CONFIG, "guidance", "noise_weight"),
    "metamorph": (test_metamorph.CONFIG, "image_weight"),
    "metaquery": (test_metaquery.CONFIG, "guidance", "image_guidance"),
    "painter": (test_painter.CONFIG, "guidance", "drop"),
    "text": (test_transfusion.TEXT, "rms_norm_eps", "rope_theta", "dropout"),
    "tokenizer": (test_kl_tokenizer.CONFIG, "kl_weight", "perceptual_weight"),
    "transfusion": (test_transfusion.CONFIG, "guidance", "noise_weight"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_and_scales_below_zero_are_told_before_they_train(name):
    config, *fields = CONFIGS[name]
    for field in fields:
        for value in (-1.0, float("nan")):
            with pytest.raises(UserError, match=rf"\.{field}: found {value}; expected a "):
                dataclasses.replace(config, **{field: value})

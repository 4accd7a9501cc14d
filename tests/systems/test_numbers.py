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
from unijax.ops.diffusion import NoiseSchedule

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


DRAWS = ("lmfusion", "metaquery", "painter", "transfusion")


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": "foo"}, "sampler: found 'foo'; expected one of"),
        ({"steps": 0}, "denoising steps: found 0; expected"),
        ({"steps": -1}, "denoising steps: found -1; expected"),
        ({"sampler": "ddim", "steps": 1001}, "(denoising steps: found 1001|noise schedule)"),
    ],
)
def test_what_no_sampler_could_draw_with_is_told_before_it_trains(name, changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CONFIGS[name][0], **changes)


def test_fewer_steps_than_pndm_takes_are_told_before_it_trains():
    with pytest.raises(UserError, match="pndm: denoising steps: found 3; expected 4 to"):
        dataclasses.replace(test_transfusion.CONFIG, sampler="pndm", steps=3)


@pytest.mark.parametrize("name", ["lmfusion", "painter", "transfusion"])
@pytest.mark.parametrize("sampler", ["ddpm", "euler"])
def test_a_flow_is_told_where_noise_is_learned(name, sampler):
    flow = NoiseSchedule("flow")
    with pytest.raises(
        UserError, match=r"schedule\.kind: found 'flow'; expected one of \['linear'"
    ):
        dataclasses.replace(CONFIGS[name][0], schedule=flow, sampler=sampler)

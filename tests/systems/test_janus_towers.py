"""Janus with another tower for understanding: what every decoder must do, and what it is fed."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.long import long
from tests.systems.decoder_suite import DecoderSuite
from tests.systems.small import SmallRows
from tests.systems.test_janus import SYSTEM
from unijax.core.errors import UserError
from unijax.core.record import to_json
from unijax.main import config as config_lib
from unijax.main.run import resolve
from unijax.models.clip import ClipVisionConfig
from unijax.models.eva import EvaConfig
from unijax.models.towers import Tower
from unijax.systems.janus import RECIPE, Janus
from unijax.train.stage import Rule

EVA02 = EvaConfig(
    16, 42, 1, 2, image_size=16, patch_size=8, hidden_act="swiglu", rope_grid=3, mlp_norm=True,
    init="eva02",
)  # fmt: skip
CLIP = ClipVisionConfig(16, 8, 16, 32, 1, 2)


def small(vision, rules=(), **others) -> SmallRows:
    system = Janus(dataclasses.replace(SYSTEM.config, vision=vision, **others))
    return SmallRows(system, rules=(Rule("vqmodel/", frozen=True), *rules))


class OfATower(DecoderSuite):
    """The sizes of the recipe are `test_janus`'s matter."""

    recipe = RECIPE
    edges = 0.03

    def sizes(self):
        return {}


@long
class TestJanusWithEva02(OfATower):
    small = small(EVA02)


@long
class TestJanusWithClip(OfATower):
    small = small(CLIP)


@pytest.mark.parametrize("config", [EVA02, CLIP], ids=["eva02", "clip"])
def test_features_are_those_of_the_patches_of_a_picture_in_clips_statistics(config):
    janus = small(config)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    params = janus.params["vision_model"]
    found = jax.jit(janus.system.encode_und)(janus.params, jnp.asarray(pixels) / 127.5 - 1)
    mean, std = (
        np.array(x) * 255
        for x in (
            (0.48145466, 0.4578275, 0.40821073),
            (0.26862954, 0.26130258, 0.27577711),
        )
    )
    tower = jax.jit(Tower(config).module.apply)
    want = tower({"params": params}, jnp.asarray((pixels - mean) / std))
    assert found.shape == (2, 4, 16)
    np.testing.assert_allclose(found, want[:, 1:], rtol=1e-4, atol=1e-5)


def _demo(vision) -> dict:
    values = to_json(resolve(config_lib.load("configs/janus_demo.py")))
    values["model"]["vision"] = vision
    return values


@pytest.mark.parametrize("config", [EVA02, CLIP], ids=["eva02", "clip"])
def test_a_config_chooses_the_tower_and_a_record_of_it_keeps_the_choice(config):
    run = resolve(_demo(dataclasses.asdict(config)))
    assert run.model.vision == config
    assert resolve(to_json(run)) == run
    assert "kind" not in to_json(resolve(config_lib.load("configs/janus_demo.py")))[
        "model"
    ]["vision"]  # fmt: skip


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        ({"kind": "eva03"}, r"model.vision.kind: found 'eva03'; expected one of \['siglip', 'eva'"),
        ({"kind": "clip", "rope_grid": 16}, r"model.vision: found unknown key 'rope_grid'"),
        ("clip", r"model.vision: found 'clip'; expected a group of keys"),
    ],
)
def test_a_tower_that_there_is_not_is_refused(vision, message):
    with pytest.raises(UserError, match=message):
        resolve(_demo(vision))


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        (dataclasses.replace(EVA02, patch_dropout=0.5), "model.vision.patch_dropout: found 0.5"),
        (dataclasses.replace(EVA02, mask_token=True), "model.vision.mask_token: found True"),
        (
            dataclasses.replace(CLIP, image_size=1024, patch_size=8),
            "model.vision: found 16384 patches of a picture; expected fewer than",
        ),
    ],
)
def test_a_tower_that_the_decoder_cannot_read_whole_is_refused(vision, message):
    with pytest.raises(UserError, match=re.escape(message)):
        small(vision)


def test_pictures_of_another_size_than_the_towers_are_refused():
    janus = small(EVA02)
    with pytest.raises(UserError, match="found 24 x 24 pixels; expected 16 x 16, the image_size"):
        jax.eval_shape(janus.system.encode_und, janus.params, jnp.zeros((1, 24, 24, 3)))

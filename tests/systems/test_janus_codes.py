"""Janus whose encoder for understanding is that of its codes: the paper's ablations A, B and C."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.long import long
from tests.systems.test_janus import SYSTEM
from tests.systems.test_janus_towers import OfATower, small
from unijax.core import tree
from unijax.core.errors import UserError
from unijax.core.record import to_json
from unijax.main import config as config_lib
from unijax.main.run import resolve
from unijax.models.semantic import CodesConfig, SemanticConfig
from unijax.systems.janus import Janus
from unijax.train.stage import Rule

VQ = SYSTEM.config.vq
FROZEN = (Rule("vision_model/vqmodel/", frozen=True),)  # no gradient goes through codes
MEANT = CodesConfig(VQ, SemanticConfig(16, 32, 2, 2))


@long
class TestWithCodesForUnderstanding(OfATower):
    """A."""

    small = small(CodesConfig(VQ), FROZEN)


@long
class TestWithOneEncoder(OfATower):
    """B: what is drawn enters as what the encoder makes of its codes."""

    small = small(MEANT, FROZEN, one_encoder=True)
    reads_codes = ("vision_model",)

    def costs_of(self, batch):
        """On CPU attention over codes works the pairs that its mask leaves out, too."""
        n, meant = VQ.num_tokens, MEANT.semantic
        left_out = n * n - n * (n + 1) // 2
        of_one = meant.encoder.flops(meant.hidden_size, 0, left_out)
        read = [x for name, x in batch.images.items() if name == "gen" or x.pixels is not None]
        return super().costs_of(batch) + of_one * sum(x.weight.size for x in read)


def test_a_feature_knows_the_codes_up_to_its_own_alone():
    janus = small(MEANT)
    read = jax.jit(janus.system.vision_model.of_codes)
    params = janus.params["vision_model"]
    n, rng = VQ.num_tokens, np.random.default_rng(0)
    codes = rng.integers(0, VQ.num_embeddings, (1, n))
    before = read(params, jnp.asarray(codes))
    for at in range(n):
        other = codes.copy()
        other[:, at] = (other[:, at] + 1) % VQ.num_embeddings
        after = read(params, jnp.asarray(other))
        np.testing.assert_array_equal(before[:, :at], after[:, :at])
        assert np.abs(before[:, at] - after[:, at]).max() > 1e-3


def test_features_of_a_picture_are_those_of_its_codes():
    janus = small(MEANT)
    system, params = janus.system, janus.params
    shape = (2, VQ.image_size, VQ.image_size, 3)
    pixels = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, shape), jnp.float32)
    codes = system.vision_model.module.apply(
        {"params": params["vision_model"]}, pixels, method=lambda m, x: m.vqmodel.encode(x)
    )
    want = system.vision_model.of_codes(params["vision_model"], codes)
    np.testing.assert_array_equal(system.encode_und(params, pixels), want)


def test_without_a_meaning_features_are_the_vectors_of_codes():
    janus = small(CodesConfig(VQ))
    params = janus.params["vision_model"]
    codes = np.arange(2 * VQ.num_tokens).reshape(2, -1) % VQ.num_embeddings
    table = np.asarray(params["vqmodel"]["quantize"]["embedding"])
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    np.testing.assert_allclose(
        janus.system.vision_model.of_codes(params, jnp.asarray(codes)), unit[codes], rtol=1e-5
    )


def test_one_encoder_has_no_code_table():
    params = tree.flatten(small(MEANT, one_encoder=True).params)
    assert not any(path.startswith("generation_embeddings") for path in params)


@pytest.mark.parametrize(
    ("vision", "found"),
    [
        (SYSTEM.config.vision, "a SigLIP tower"),
        (CodesConfig(dataclasses.replace(VQ, num_embeddings=8)), "a VQ tower"),
    ],
    ids=["siglip", "other codes"],
)
def test_an_encoder_without_features_of_the_codes_is_refused(vision, found):
    with pytest.raises(UserError, match=f"model.one_encoder: found {found} for understanding"):
        Janus(dataclasses.replace(SYSTEM.config, vision=vision, one_encoder=True))


def test_a_config_chooses_it_and_a_record_keeps_the_choice():
    values = to_json(resolve(config_lib.load("configs/janus_demo.py")))
    values["model"]["vision"] = to_json(CodesConfig(VQ, SemanticConfig()))
    values["model"] |= {"vq": to_json(VQ), "one_encoder": True}
    run = resolve(values)
    assert run.model.one_encoder
    assert run.model.vision.semantic == SemanticConfig()
    assert resolve(to_json(run)) == run

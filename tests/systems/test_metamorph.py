"""MetaMorph: what every decoder must do, and what its paper says of features and losses."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.systems.decoder_suite import DecoderSuite
from tests.systems.small import SmallRows, words
from unijax.core.batch import Kind, Target
from unijax.core.errors import UserError
from unijax.data.document import Document, ImageSpan
from unijax.models.autoencoder import AutoencoderConfig
from unijax.models.llama import LlamaConfig
from unijax.models.siglip import SiglipConfig
from unijax.models.unet import UNetConfig
from unijax.ops.image import to_signed
from unijax.ops.resize import pool_bilinear
from unijax.sample.image import draw_features
from unijax.sample.prompts import Prompting, up_to_image
from unijax.systems.features import VisualiserConfig
from unijax.systems.metamorph import IMAGE, RECIPE, SIZES, MetaMorph, MetaMorphConfig
from unijax.systems.painter import PainterConfig
from unijax.train.stage import Rule

TEXT = LlamaConfig(48, 32, 48, 2, 4, 2, 8, 1e-5)
VISION = SiglipConfig(
    15, 4, 16, 32, 1, 2, hidden_act="gelu_tanh", features="pre_norm", leaves_pixels=True
)
UNET = UNetConfig(
    2, block_out_channels=(32, 32), layers_per_block=1, attention_levels=(True, False),
    cross_attention_dim=12, num_attention_heads=4,
)  # fmt: skip
PAINTER = PainterConfig(UNET, AutoencoderConfig(4, 4, (32, 32), 1), steps=2)
CONFIG = MetaMorphConfig(TEXT, VISION, grid=2, head_chunk=512)
SYSTEM = MetaMorph(CONFIG)
PAINTED = MetaMorph(dataclasses.replace(CONFIG, visualiser=VisualiserConfig(PAINTER, 20, 6)))


class TestMetaMorph(DecoderSuite):
    small = SmallRows(SYSTEM, rules=(Rule("vision_model/", frozen=True),))
    recipe = RECIPE
    edges = 0.03  # pooling is products, too
    may_gather = (*DecoderSuite.may_gather, "resize")
    may_gather_positions = (*DecoderSuite.may_gather_positions, "VectorHead")


SMALL = TestMetaMorph.small
PARAMS = SMALL.params


@pytest.mark.parametrize("side", [27, 9, 3])
def test_features_are_pooled_as_torch_does_it(side):
    x = np.random.default_rng(0).standard_normal((2, side * side, 6), np.float32)
    square = torch.from_numpy(x).reshape(2, side, side, 6).permute(0, 3, 1, 2)
    want = functional.interpolate(square, (8, 8), mode="bilinear", align_corners=False)
    found = pool_bilinear(jnp.asarray(x), 8)
    np.testing.assert_allclose(found, want.permute(0, 2, 3, 1).reshape(2, 64, 6), atol=1e-5)


def test_features_are_of_length_one():
    pixels = SMALL.batch([[SMALL.documents()["made"]]]).images[IMAGE].pixels[0, :1]
    found = SYSTEM.encode_features(PARAMS, to_signed(pixels))
    np.testing.assert_allclose(jnp.sum(found**2, axis=-1), 1.0, rtol=1e-5)
    # of a size that is no multiple of the patch: what is over is not looked at
    cut = SYSTEM.encode_features(PARAMS, to_signed(pixels.at[:, 12:].set(7).at[:, :, 12:].set(7)))
    np.testing.assert_array_equal(found, cut)


def document() -> Document:
    """A picture of the user, an answer with a picture in it."""
    und, gen = SMALL.images["und"][0], SMALL.images["gen"][0]
    return Document("d", (words(8, weight=0.0), und, words(9, 10, weight=0.0), gen, words(11, 2)))


def test_the_state_before_a_feature_answers_with_it_and_marks_are_words():
    """The begin mark answers with the first, the last but one with the last (section 3)."""
    batch = SMALL.batch([[document()]])
    n = SMALL.size(document())
    kind, target, special = batch.target_kind[0, :n], batch.target[0, :n], SMALL.special
    # bos 8 boi u u u u eoi 9 10 boi g g g g eoi 11 2
    learned = [0] * 9 + [Target.TEXT, *[Target.FEATURE] * 4, *[Target.TEXT] * 3, 0]
    assert kind.tolist() == learned
    assert target[9] == special.boi
    assert target[10:14].tolist() == [4, 5, 6, 7]  # the second slot
    assert target[14:17].tolist() == [special.eoi, 11, 2]
    given = np.asarray(batch.weight[0, :n]) > 0
    assert given.tolist() == [bool(k) for k in learned]


def test_its_losses_are_those_of_the_released_code():
    """Shifted cross-entropy, and minus the mean cosine of normalised predictions and features."""
    batch = SMALL.batch([[document()], [Document("t", (words(8, 9, 10),))]])
    loss = jax.jit(functools.partial(SMALL.loss, frozen=frozenset()))
    sums, metrics = loss(PARAMS, batch, None)
    hidden = SYSTEM.states(PARAMS, SYSTEM.embed(PARAMS, batch), batch)
    pixels = batch.images[IMAGE].pixels[0, 1:2]
    features = torch.from_numpy(np.array(SYSTEM.encode_features(PARAMS, to_signed(pixels))[0]))
    start = 10  # the begin mark of the second picture
    h = torch.from_numpy(np.array(hidden[0, start : start + 4]))
    head = {p: torch.from_numpy(np.array(x)) for p, x in PARAMS["vision_head"]["fc1"].items()}
    out = {p: torch.from_numpy(np.array(x)) for p, x in PARAMS["vision_head"]["fc2"].items()}
    said = functional.gelu(h @ head["kernel"] + head["bias"]) @ out["kernel"] + out["bias"]
    cosine = (functional.normalize(said, dim=-1) * functional.normalize(features, dim=-1)).sum(-1)
    np.testing.assert_allclose(sums["feature"], -cosine.sum(), rtol=1e-4)
    np.testing.assert_allclose(metrics["feature/loss"], ((1 - cosine).sum(), 4), rtol=1e-4)
    logits = torch.from_numpy(np.array(SYSTEM.text_logits(PARAMS, hidden)))
    nats = 0.0
    for row in range(2):
        for at in np.flatnonzero(np.asarray(batch.target_kind[row]) == Target.TEXT):
            label = torch.tensor(int(batch.target[row, at]))
            nats += float(functional.cross_entropy(logits[row, at], label))
    np.testing.assert_allclose(sums["text"], nats, rtol=1e-4)
    assert -4.0 <= float(sums["feature"]) <= 4.0


def test_no_picture_in_an_answer_means_no_loss_of_features():
    und = SMALL.images["und"][0]
    batch = SMALL.batch([[Document("d", (words(8, weight=0.0), und, words(9, 10)))]])
    assert SYSTEM.weights(batch)["feature"] == 0
    (_, _), grads = SMALL.value_and_gradients(batch)
    assert all(not np.any(x) for x in jax.tree.leaves(grads["vision_head"]))
    assert any(np.any(x) for x in jax.tree.leaves(grads["aligner"]))


def test_what_is_written_is_what_teacher_forcing_says():
    """A feature at a time, each the input of the next; alone and in company."""
    small = SmallRows(PAINTED)
    system, weights, special, layout = PAINTED, small.params, small.special, PAINTED.layout
    und = small.images["und"][1]
    prompts = [Document("p", (words(8, 9, 10),)), Document("q", (words(8), und, words(11)))]
    asked = [up_to_image(d, "gen", layout, special) for d in prompts]
    params = system.for_decoding(weights)
    found = draw_features(system, params, *Prompting(layout, special).batch(asked), None)
    for i, prompt in enumerate(prompts):
        alone = Prompting(layout, special).batch(asked[i : i + 1])
        np.testing.assert_allclose(
            draw_features(system, params, *alone, None)[0], found[i], atol=1e-5
        )
        picture = ImageSpan("gen", small.images["gen"][0].image)
        batch = small.batch([[Document("d", (*prompt.spans, picture))]])
        x = system.embed(weights, batch)
        here = np.flatnonzero(np.asarray(batch.kind[0]) == Kind.GEN)
        x = x.at[0, here].set(system.embed_features(weights, found[i]))
        said = system.predict(weights, system.states(weights, x, batch)[0, here - 1])
        np.testing.assert_allclose(found[i], said, atol=1e-5)
        np.testing.assert_allclose(jnp.sum(found[i] ** 2, axis=-1), 1.0, rtol=1e-5)


def test_published_sizes():
    """SigLIP so400m, Llama 3.1 8B with two ids more, both projections with biases."""
    c = SIZES["metamorph_8b"]
    text = sum(c.text.count_parameters().values())
    assert text == 8_030_261_248 + 2 * 2 * 4096
    assert (c.vision.num_tokens, c.num_tokens) == (729, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": 4}, "model.grid: found 4; expected 1 to 3, the patches of a side"),
        ({"visualiser": VisualiserConfig(PAINTER, tokens=3)}, "tokens: found 3; expected at least"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CONFIG, **change)


def test_without_a_visualiser_it_makes_no_pictures():
    assert SYSTEM.maker is None
    assert PAINTED.maker

"""The contrastive recipe: the loss against loops, equal captions, filling, padding of texts."""

import dataclasses
import functools
import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.long import long
from tests.systems.image_suite import ImageSuite
from tests.systems.small import SmallPictures
from tests.walk import product_flops
from unijax.core import cost, tree
from unijax.core.batch import ImageBatch
from unijax.core.errors import UserError
from unijax.models.clip import ClipTextConfig
from unijax.models.eva import EvaConfig
from unijax.models.siglip import SiglipConfig
from unijax.systems.contrastive import RECIPE, Contrastive, ContrastiveConfig, text_labels

CONFIG = ContrastiveConfig(
    vision=SiglipConfig(
        image_size=16, patch_size=8, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4,
    ),
    text=ClipTextConfig(
        vocab_size=11, max_length=6, hidden_size=24, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, layer_norm_eps=1e-6, causal=False, pooling="mean", init="normal",
    ),
    embed_dim=16,
)  # fmt: skip
SYSTEM = Contrastive(CONFIG)
SMALL = SmallPictures(SYSTEM, size=16, text_length=6, vocab=CONFIG.text.vocab_size)


@long
class TestContrastive(ImageSuite):
    small = SMALL
    recipe = RECIPE


# As CLIP and EVA-CLIP are: class tokens, the last token of a text, the softmax loss.
EVA = EvaConfig(
    16, 42, 2, 2, image_size=16, patch_size=8, hidden_act="swiglu", rope_grid=2, mlp_norm=True,
    attention_norm=True, init="eva_clip",
)  # fmt: skip
TEXT = ClipTextConfig(11, 6, 24, 48, 2, 4)
CLIP_LIKE = Contrastive(ContrastiveConfig(EVA, TEXT, 16, "softmax", "class", True, chunk=3))


class TestClipLike(ImageSuite):
    small = SmallPictures(CLIP_LIKE, size=16, text_length=6, vocab=11)
    recipe = RECIPE

    def worked(self, batch):
        """On CPU attention works the pairs that its mask leaves out, too."""
        images, tokens = batch.text.shape
        return super().worked(batch) | {"pairs/text": float(images * tokens**2)}


def test_the_softmax_loss_asks_both_ways():
    small = TestClipLike.small
    images = small.batch([1, 0, 1, 1])
    loss = jax.jit(functools.partial(small.loss, frozen=frozenset()))
    sums, metrics = loss(small.params, images, None)
    pixels = images.pixels / 127.5 - 1
    x = np.asarray(jax.jit(CLIP_LIKE.embed_images)(small.params, pixels), np.float64)
    y = jax.jit(CLIP_LIKE.embed_texts)(small.params, images.text, images.text_length)
    real = [0, 2, 3]
    scale = math.exp(float(small.params["similarity"]["scale"]))
    logits = scale * x[real] @ np.asarray(y, np.float64)[real].T
    own = np.diagonal(logits)
    asked = [np.log(np.exp(logits).sum(axis=a)) - own for a in (0, 1)]
    np.testing.assert_allclose(sums["contrastive"], sum(map(sum, asked)) / 2, rtol=1e-4)
    assert float(metrics["image_to_text"][0]) == (own >= logits.max(axis=1)).sum()
    assert set(small.params["similarity"]) == {"scale"}


def test_an_image_is_the_projected_class_token():
    small, params = TestClipLike.small, TestClipLike.small.params
    pixels = small.batch([1, 1]).pixels / 127.5 - 1
    token = jax.jit(CLIP_LIKE.vision_model)(params["vision_model"], pixels)[:, 0]
    projection = params["vision_projection"]
    want = token @ projection["kernel"] + projection["bias"]
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    found = jax.jit(CLIP_LIKE.embed_images)(params, pixels)
    np.testing.assert_allclose(found, want, atol=1e-6)


def test_patches_are_left_out_in_training_alone_and_counted_so():
    vision = dataclasses.replace(EVA, patch_dropout=0.5)
    system = Contrastive(dataclasses.replace(CLIP_LIKE.config, vision=vision))
    small = dataclasses.replace(TestClipLike.small, system=system)
    images, key = small.batch([1] * 4), jax.random.key(0)
    run = functools.partial(small.loss, frozen=frozenset())
    whole, less = (jax.jit(run)(small.params, images, k)[0] for k in (None, key))
    assert float(whole["contrastive"]) != float(less["contrastive"])
    flops = product_flops(jax.make_jaxpr(run)(small.params, images, key).jaxpr)
    found = cost.forward(system.costs, system.amounts(images))
    assert sum(map(float, found.values())) == pytest.approx(flops, rel=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"loss": "triplet"},
            r"model.loss: found 'triplet'; expected one of \['sigmoid', 'softmax'",
        ),
        ({"chunk": 0}, r"model.chunk: found 0; expected 1 or more"),
        ({"vision_pooling": "class"}, r"found 'class' of a SigLIP tower; expected one of \['mean'"),
    ],
)
def test_a_comparison_that_cannot_be_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CONFIG, **changes)


@pytest.fixture(scope="module")
def params():
    similarity = {"scale": jnp.float32(math.log(10)), "bias": jnp.float32(-3.0)}
    return SMALL.params | {"similarity": similarity}


def batch(texts, weight=None, pad=0, seed=0):
    """A picture for each text; `pad` stands behind the texts."""
    pixels = np.random.default_rng(seed).integers(0, 256, (len(texts), 16, 16, 3), dtype=np.uint8)
    ids = np.full((len(texts), CONFIG.text.max_length), pad, np.int32)
    for row, text in zip(ids, texts):
        row[: len(text)] = text
    return ImageBatch(
        pixels=jnp.asarray(pixels),
        weight=jnp.asarray(weight or [1.0] * len(texts), jnp.float32),
        text=jnp.asarray(ids),
        text_length=jnp.asarray([len(t) for t in texts], jnp.int32),
    )


@jax.jit
def run(params, batch):
    step = jnp.zeros((), jnp.int32)
    return SYSTEM.loss(params, batch, jax.random.key(0), step, frozenset())


@jax.jit
def embed(params, batch):
    pixels = batch.pixels / 127.5 - 1
    texts = SYSTEM.embed_texts(params, batch.text, batch.text_length)
    return SYSTEM.embed_images(params, pixels), texts


TEXTS = st.lists(st.lists(st.integers(0, 2), min_size=0, max_size=3), min_size=4, max_size=4)


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(TEXTS, st.lists(st.sampled_from([0.0, 1.0]), min_size=4, max_size=4))
def test_the_loss_is_the_sum_over_pairs(params, texts, weight):
    images = batch(texts, weight)
    sums, metrics = run(params, images)
    x, y = jax.device_get(embed(params, images))
    expected, found = 0.0, 0.0
    for i, first in enumerate(texts):
        for j, second in enumerate(texts):
            z = 1 if first == second else -1
            logit = 10.0 * float(x[i] @ y[j]) - 3.0
            expected += weight[i] * weight[j] * math.log1p(math.exp(-z * logit))
        real = [j for j in range(4) if weight[j]]
        if weight[i]:
            best = max(real, key=lambda j: (x[i] @ y[j], -j))
            found += texts[best] == first
    np.testing.assert_allclose(sums["contrastive"], expected, rtol=1e-4, atol=1e-5)
    assert float(SYSTEM.weights(images)["contrastive"]) == sum(weight)
    assert float(metrics["image_to_text"][0]) == found


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(TEXTS, st.integers(0, 2))
def test_equal_texts_are_those_that_read_the_same(texts, pad):
    b = batch(texts, pad=pad)
    labels = np.asarray(text_labels(b.text, b.text_length)).tolist()
    assert [[x == y for y in labels] for x in labels] == [[x == y for y in texts] for x in texts]


def test_what_stands_behind_a_text_has_no_influence(params):
    texts = [[1, 2], [3], [4, 5, 6, 7, 8], []]
    (a, _), (b, _) = run(params, batch(texts)), run(params, batch(texts, pad=9))
    np.testing.assert_allclose(a["contrastive"], b["contrastive"], rtol=1e-6)
    _, y = embed(params, batch(texts))
    _, other = embed(params, batch([[1, 2, 9], [3], [4, 5, 6, 7, 8], []]))
    assert float(jnp.abs(y[0] - other[0]).max()) > 1e-3
    np.testing.assert_allclose(y[1:], other[1:], atol=1e-6)


def test_both_towers_and_the_similarity_train(params):
    images = batch([[1, 2], [3, 4], [5], [1, 2]])
    grads = jax.jit(jax.grad(lambda p: run(p, images)[0]["contrastive"]))(params)
    still = {
        path
        for path, g in tree.flatten(jax.device_get(grads)).items()
        # Adding to every key adds the same to every score: a key bias has no gradient.
        if not np.abs(g).max() > 1e-7 and not path.endswith("k_proj/bias")
    }
    assert still == set()


def test_fresh_parameters_start_as_published():
    init = jax.jit(lambda key: SYSTEM.init(key)["similarity"])(jax.random.key(0))
    assert float(init["scale"].value) == pytest.approx(math.log(10))
    assert float(init["bias"].value) == -10


def test_flops_of_pairs_grow_as_their_square():
    one, two = (SYSTEM.amounts(batch([[1], [2]], weight)) for weight in ([1.0, 0.0], None))
    one, two = (cost.forward(SYSTEM.costs, amounts) for amounts in (one, two))
    assert set(one) == {"vision", "text", "projections", "similarity"}
    for name in one:
        assert float(two[name]) == float(one[name]) * (4 if name == "similarity" else 2)


def test_batches_without_fitting_texts_are_refused(params):
    b = batch([[1], [2]])
    with pytest.raises(UserError, match=r"found 0; expected 1 to model.text.max_length=6"):
        run(params, b.replace(text=None, text_length=None))
    long = jnp.zeros((2, 7), jnp.int32)
    with pytest.raises(UserError, match=r"found 7; expected 1 to model.text.max_length=6"):
        run(params, b.replace(text=long))

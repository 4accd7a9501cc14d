"""The recipe with a KL autoencoder: what it adds to that of codes (test_tokenizer.py)."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.systems.test_tokenizer import perceptual_weights, random_like  # noqa: F401 (a fixture)
from unijax.core import tree
from unijax.core.batch import ImageBatch
from unijax.core.errors import UserError
from unijax.models.autoencoder import SIZES
from unijax.models.patchgan import PatchGANConfig
from unijax.models.vqgan import SIZES as VQ_SIZES
from unijax.ops.image import to_signed
from unijax.systems.tokenizer import Tokenizer, TokenizerConfig

CONFIG = TokenizerConfig(
    kl=SIZES["kl_test"],
    kl_weight=1e-3,
    reconstruction="l1",
    perceptual_weight=0.0,
    discriminator=PatchGANConfig(base_channels=8, num_layers=1),
    adversarial_start=10,
)
SYSTEM = Tokenizer(CONFIG)


def batch(seed=(4, 5, 6), weight=(1.0, 1.0, 1.0)):
    pixels = np.random.default_rng(0).integers(0, 256, (len(weight), 16, 16, 3), dtype=np.uint8)
    return ImageBatch(
        pixels=jnp.asarray(pixels),
        weight=jnp.asarray(weight, jnp.float32),
        seed=jnp.asarray(seed, jnp.uint32),
    )


@pytest.fixture(scope="module")
def params(perceptual_weights):  # noqa: F811
    shapes = jax.eval_shape(SYSTEM.init, jax.random.key(0))
    assert set(shapes) == {"generator", "discriminator"}
    return random_like(shapes)


@jax.jit
def run(params, batch, step):
    return SYSTEM.loss(params, batch, jax.random.key(0), step, frozenset())


def test_each_term_is_what_it_says(params):
    images = batch()
    sums, metrics = run(params, images, 0)
    assert sums.keys() == SYSTEM.weights(images).keys()
    assert set(sums) == {"reconstruction", "kl", "adversarial", "discriminator"}

    @jax.jit
    def parts(params, pixels, seed):
        generator, params = SYSTEM.generator, {"params": params["generator"]}
        posterior = generator.apply(params, pixels, method="encode")
        drawn = generator.apply(params, posterior.sample(seed), method="decode")
        mean = generator.apply(params, posterior.mean, method="decode")
        return posterior, drawn, mean, SYSTEM.rebuild({"generator": params["params"]}, pixels)

    real = to_signed(images.pixels)
    posterior, drawn, mean, rebuilt = parts(params, real, images.seed)
    error = np.abs(drawn - real).mean((1, 2, 3)).sum()
    np.testing.assert_allclose(sums["reconstruction"], error, rtol=1e-5)
    np.testing.assert_allclose(sums["kl"], 1e-3 * posterior.kl().sum(), rtol=1e-5)
    np.testing.assert_allclose(metrics["kl"][0], posterior.kl().sum(), rtol=1e-5)
    np.testing.assert_allclose(rebuilt, mean, atol=1e-5)
    assert float(jnp.abs(drawn - mean).max()) > 1e-3


def test_what_is_drawn_belongs_to_the_picture(params):
    images, order = batch(), np.array([2, 0, 1])
    turned = jax.tree.map(lambda x: x[order], images)
    one = lambda b, i: run(params, b.replace(weight=jnp.eye(3)[i]), 0)[0]["reconstruction"]  # noqa: E731
    for place, i in enumerate(order):
        np.testing.assert_allclose(one(turned, place), one(images, i), rtol=1e-5)
    other = one(images.replace(seed=images.seed + 1), 0)
    assert float(abs(other - one(images, 0))) > 1e-6


def test_the_divergence_trains_the_encoder_alone(params):
    loss = lambda p: run(p, batch(), 0)[0]["kl"]  # noqa: E731
    gradient = tree.flatten(jax.device_get(jax.jit(jax.grad(loss))(params)))
    trained = {"/".join(path.split("/")[:2]) for path, g in gradient.items() if np.abs(g).max() > 0}
    assert trained == {"generator/encoder", "generator/quant_conv"}


def test_costs_are_those_of_the_autoencoder():
    of = {c.name: c.forward for c in SYSTEM.costs if c.group == "generator"}
    kl = CONFIG.kl
    assert of == {
        "KL encoder": kl.encode_flops_per_image(), "KL decoder": kl.decode_flops_per_image(),
    }  # fmt: skip


def test_every_parameter_has_logical_axes():
    shapes = jax.eval_shape(SYSTEM.init, jax.random.key(0))
    is_box = lambda x: isinstance(x, nn.LogicallyPartitioned)  # noqa: E731
    assert all(map(is_box, jax.tree.leaves(shapes, is_leaf=is_box)))


def test_one_autoencoder_is_trained_at_a_time():
    with pytest.raises(UserError, match=r"model.vq, model.kl: found both; expected one of them"):
        dataclasses.replace(CONFIG, vq=VQ_SIZES["vq_test"])
    with pytest.raises(UserError, match="found neither"):
        dataclasses.replace(CONFIG, kl=None)

"""The recipe of the tokenizer: what each term is, whom it trains, that filling counts nothing."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.systems.image_suite import ImageSuite
from tests.systems.small import SmallPictures
from unijax.core import tree
from unijax.core.batch import ImageBatch
from unijax.core.errors import UserError
from unijax.models import efficientnet_lite
from unijax.models.patchgan import PatchGANConfig
from unijax.models.vqgan import SIZES
from unijax.ops.image import to_signed
from unijax.systems import tokenizer
from unijax.systems.tokenizer import RECIPE, Tokenizer, TokenizerConfig, psnr
from unijax.train.stage import Rule

STAGES = 2  # of the perceptual network: fewer than in use, to compile in seconds
START = 10  # step from which on the discriminator counts
CONFIG = TokenizerConfig(
    vq=SIZES["vq_test"],
    discriminator=PatchGANConfig(base_channels=8, num_layers=1),
    adversarial_start=START,
)
# The perceptual network is a file's: what it does is no part of the suite.
SMALL = SmallPictures(
    Tokenizer(dataclasses.replace(CONFIG, perceptual_weight=0.0)),
    rules=(Rule("discriminator/", optimizer="other"),),
)


class TestTokenizer(ImageSuite):
    small = SMALL
    recipe = RECIPE
    edges = 0.03


def random_like(shapes):
    """Values of a size that every layer keeps."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: rng.normal(size=x.shape, scale=math.prod(x.shape[:-1]) ** -0.5).astype("f4"),
        nn.unbox(shapes),
    )


@pytest.fixture(scope="module", autouse=True)
def perceptual_weights():
    """Random ones in place of the package's, which tests cannot assume."""

    def load(path, num_stages):
        assert (path, num_stages) == ("", STAGES)
        model = efficientnet_lite.EfficientNetLite0(num_stages)
        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
        return random_like(shapes["params"])

    patch = pytest.MonkeyPatch()
    patch.setattr(efficientnet_lite, "load_weights", load)
    patch.setattr(tokenizer, "PERCEPTUAL_STAGES", STAGES)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def boxed(perceptual_weights):
    return jax.eval_shape(Tokenizer(CONFIG).init, jax.random.key(0))


@pytest.fixture(scope="module")
def params(boxed):
    return random_like(boxed)


def batch(weight=(1.0, 1.0, 1.0), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (len(weight), 16, 16, 3), dtype=np.uint8)
    return ImageBatch(pixels=jnp.asarray(pixels), weight=jnp.asarray(weight, jnp.float32))


@jax.jit
def run(params, batch, step):
    return Tokenizer(CONFIG).loss(params, batch, jax.random.key(0), step, frozenset())


def test_perceptual_parameters_come_from_their_file():
    init = jax.jit(lambda key: nn.unbox(Tokenizer(CONFIG).init(key)["perceptual"]))
    ours = tree.flatten(init(jax.random.key(0)))
    theirs = tree.flatten(efficientnet_lite.load_weights("", STAGES))
    assert ours.keys() == theirs.keys()
    for path in ours:
        np.testing.assert_array_equal(ours[path], theirs[path], err_msg=path)


def test_terms_and_denominators_have_the_same_names(params):
    sums, _ = run(params, batch(), 0)
    weights = Tokenizer(CONFIG).weights(batch((1.0, 1.0, 0.0)))
    assert sums.keys() == weights.keys()
    assert set(sums) == {
        "reconstruction", "perceptual", "codebook", "adversarial", "discriminator",
    }  # fmt: skip
    assert all(float(w) == 2 for w in weights.values())


def test_each_term_is_what_it_says(params):
    system, images = Tokenizer(CONFIG), batch()
    sums, metrics = run(params, images, START)
    real = to_signed(images.pixels)

    @jax.jit
    def parts(params):
        out = system.generator.apply({"params": params["generator"]}, real)
        judge = lambda x: system.discriminator.apply({"params": params["discriminator"]}, x)  # noqa: E731
        look = lambda x: system.perceptual.apply({"params": params["perceptual"]}, x)  # noqa: E731
        return out, judge(out.pixels), judge(real), look(out.pixels), look(real)

    out, on_fake, on_real, fake_features, real_features = jax.device_get(parts(params))
    squared = ((out.pixels - np.asarray(real)) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(sums["reconstruction"], squared.sum(), rtol=1e-5)
    codebook = out.codebook_loss + 0.25 * out.commitment_loss
    np.testing.assert_allclose(sums["codebook"], codebook.sum(), rtol=1e-5)
    np.testing.assert_allclose(sums["adversarial"], -0.5 * on_fake.mean((1, 2)).sum(), rtol=1e-4)
    hinge = 0.5 * (np.maximum(1 + on_fake, 0) + np.maximum(1 - on_real, 0))
    np.testing.assert_allclose(sums["discriminator"], 0.5 * hinge.mean((1, 2)).sum(), rtol=1e-5)

    def cosine_distance(a, b):
        unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b)]
        return (2 - 2 * (unit[0] * unit[1]).sum(-1)).mean((1, 2))

    layers = [cosine_distance(a, b) for a, b in zip(fake_features, real_features)]
    assert len(layers) == STAGES
    np.testing.assert_allclose(sums["perceptual"], np.mean(layers, 0).sum(), rtol=1e-3)
    assert float(sums["perceptual"]) > 1e-3

    total, count = metrics["psnr"]
    np.testing.assert_allclose(total / count, psnr(jnp.asarray(out.pixels), real).mean(), rtol=1e-5)
    used, size = metrics["codes_used"]
    assert (int(used), int(size)) == (len(np.unique(out.codes)), 64)


def test_the_discriminator_waits_for_its_step(params):
    before, _ = run(params, batch(), START - 1)
    after, _ = run(params, batch(), START)
    assert float(before["adversarial"]) == float(before["discriminator"]) == 0
    assert float(after["discriminator"]) > 0
    assert float(after["adversarial"]) != 0
    np.testing.assert_allclose(before["reconstruction"], after["reconstruction"], rtol=1e-6)


def test_each_term_trains_its_own_group(params):
    @jax.jit
    def largest(params, term):
        def objective(params):
            sums, _ = run(params, batch((1.0,)), START)
            return term @ jnp.stack([sums[k] for k in sorted(sums)])

        return jax.tree.map(lambda g: jnp.max(jnp.abs(g)), jax.grad(objective)(params))

    def groups(name):
        names = sorted(Tokenizer(CONFIG).weights(batch()))
        term = jnp.array([float(n == name) for n in names])
        flat = tree.flatten(jax.device_get(largest(params, term)))
        return {path.split("/")[0] for path, g in flat.items() if g > 0}

    assert groups("discriminator") == {"discriminator"}
    assert groups("adversarial") == {"generator"}
    assert groups("reconstruction") == {"generator"}
    assert groups("codebook") == {"generator"}
    assert "discriminator" not in groups("perceptual")
    assert "generator" in groups("perceptual")


def test_filling_counts_nothing_of_any_term(params):
    two, three = batch((1.0, 1.0)), batch((1.0, 1.0, 0.0), seed=1)
    pixels = three.pixels.at[:2].set(two.pixels)
    three = three.replace(pixels=pixels)
    (a, ma), (b, mb) = run(params, two, START), run(params, three, START)
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-6, err_msg=name)
    for name in ma:
        for x, y in zip(ma[name], mb[name]):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6, err_msg=name)


def test_parts_that_are_switched_off_are_absent():
    config = dataclasses.replace(CONFIG, discriminator=None, perceptual_weight=0.0)
    system = Tokenizer(config)
    params = jax.eval_shape(system.init, jax.random.key(0))
    assert set(params) == {"generator"}
    step = jnp.zeros((), jnp.int32)
    sums, _ = jax.eval_shape(
        lambda p, b: system.loss(p, b, jax.random.key(0), step, frozenset()),
        nn.unbox(params),
        batch(),
    )
    assert set(sums) == set(system.weights(batch())) == {"reconstruction", "codebook"}
    assert {cost.group for cost in system.costs} == {"generator", ""}
    assert {cost.name for cost in system.costs} == {"VQ encoder", "VQ decoder"}


def test_l1_is_l1(params):
    system = Tokenizer(dataclasses.replace(CONFIG, reconstruction="l1", discriminator=None))
    images = batch()
    real = to_signed(images.pixels)

    @jax.jit
    def both(params):
        sums, _ = system.loss(params, images, jax.random.key(0), jnp.int32(0), frozenset())
        return sums, system.generator.apply({"params": params["generator"]}, real)

    sums, out = both(params)
    error = np.abs(out.pixels - real).mean((1, 2, 3)).sum()
    np.testing.assert_allclose(sums["reconstruction"], error, rtol=1e-5)


def test_psnr_of_a_known_error():
    real = jnp.zeros((1, 4, 4, 3))
    assert float(psnr(real + 0.2, real)[0]) == pytest.approx(20.0, abs=1e-4)
    assert float(psnr(real + 5.0, real)[0]) == pytest.approx(10 * np.log10(4.0), abs=1e-4)


def test_wrong_names_are_refused():
    with pytest.raises(UserError, match="found 'l3'; expected 'l1' or 'l2'"):
        dataclasses.replace(CONFIG, reconstruction="l3")
    with pytest.raises(UserError, match="found 'full'; expected 'none'"):
        Tokenizer(CONFIG, remat="full")

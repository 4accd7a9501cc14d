"""FLOPs of tokenizers and contrastive towers: those that the loop reports, and the program's."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from tests.systems import test_contrastive as contrastive
from tests.systems import test_tokenizer as tokenizer
from tests.walk import product_flops
from unijax.core import tree
from unijax.core.batch import ImageBatch
from unijax.models import efficientnet_lite
from unijax.models.efficientnet_lite import EfficientNetLite0
from unijax.models.patchgan import PatchGANConfig
from unijax.models.vqgan import VQConfig
from unijax.plan.picture_work import contrastive_work, tokenizer_work
from unijax.systems.contrastive import Contrastive
from unijax.systems.tokenizer import Tokenizer, TokenizerConfig
from unijax.train.stage import Rule
from unijax.train.step import training_flops

IMAGES = 3


def abstract(system):
    return nn.unbox(jax.eval_shape(lambda: system.init(jax.random.key(0))))


def rules_of(shapes, frozen: tuple[str, ...] = ()) -> dict[str, Rule]:
    return {
        path: Rule("", frozen=path.startswith(frozen)) if frozen else Rule("")
        for path in tree.flatten(shapes)
    }


def gradient_flops(system, shapes, batch, rules) -> int:
    """Of the program that a step differentiates."""
    flat = tree.flatten(shapes)
    frozen = frozenset(path for path, rule in rules.items() if rule.frozen)
    held = tree.unflatten({p: jnp.zeros(x.shape, x.dtype) for p, x in flat.items()})

    def loss(trained):
        whole = tree.unflatten(tree.flatten(held) | trained)
        sums, _ = system.loss(whole, batch, jax.random.key(0), jnp.ones((), int), frozen)
        return sum(sums.values())

    trained = {p: x for p, x in tree.flatten(held).items() if p not in frozen}
    return product_flops(jax.make_jaxpr(jax.grad(loss))(trained).jaxpr)


@pytest.mark.parametrize("remat", ["none", "full"])
@pytest.mark.parametrize("frozen", [(), ("vision_model/",)])
def test_flops_of_contrastive_towers(remat, frozen):
    system = Contrastive(contrastive.CONFIG, remat=remat)
    shapes = abstract(system)
    rules = rules_of(shapes, frozen)
    batch = contrastive.batch([[1], [2], [3]])
    # Texts may be shorter than the tower can read.
    batch = batch.replace(text=batch.text[:, :4])
    work = contrastive_work(system.config, rules, remat, IMAGES, 4)
    assert (work.amount, work.unit) == (IMAGES, "image")
    assert work.true == pytest.approx(float(training_flops(system, batch, rules)), rel=1e-6)
    # What stands first, of all that trains, passes no gradient on: patches, or the projection.
    c = system.config.vision
    patches = 2 * IMAGES * c.num_tokens * 3 * c.patch_size**2 * c.hidden_size
    spared = 2 * IMAGES * c.hidden_size * system.config.embed_dim if frozen else patches
    assert gradient_flops(system, shapes, batch, rules) == pytest.approx(
        work.executed - spared, rel=1e-9
    )


SMALL = TokenizerConfig(
    vq=VQConfig(
        image_size=32, base_channels=32, channel_multiplier=(1, 2), num_res_blocks=1,
        latent_channels=32, num_embeddings=128,
    ),
    discriminator=PatchGANConfig(base_channels=32, num_layers=2),
    perceptual_weight=0.0,
    adversarial_start=0,
)  # fmt: skip


@pytest.mark.parametrize("discriminator", [True, False])
def test_flops_of_the_tokenizer(discriminator):
    config = SMALL if discriminator else dataclasses.replace(SMALL, discriminator=None)
    system = Tokenizer(config)
    shapes = abstract(system)
    rules = rules_of(shapes)
    batch = ImageBatch(pixels=jnp.zeros((IMAGES, 32, 32, 3), jnp.uint8), weight=jnp.ones(IMAGES))
    work = tokenizer_work(config, rules, IMAGES)
    assert work.true == pytest.approx(float(training_flops(system, batch, rules)), rel=1e-6)
    # The program's convolutions reach over edges, and give pixels no gradient.
    found = gradient_flops(system, shapes, batch, rules)
    assert found == pytest.approx(work.executed, rel=0.03)


def test_flops_of_the_perceptual_network():
    model = EfficientNetLite0(5)
    shape = jnp.zeros((1, 64, 64, 3))
    params = jax.eval_shape(model.init, jax.random.key(0), shape)
    found = product_flops(jax.make_jaxpr(model.apply)(params, shape).jaxpr)
    assert found == efficientnet_lite.flops_per_image(64, 5)
    config = dataclasses.replace(tokenizer.CONFIG, discriminator=None)
    rules = {"generator/kernel": Rule(""), "perceptual/kernel": Rule("", frozen=True)}
    one = float(efficientnet_lite.flops_per_image(16, 5))
    assert tokenizer_work(config, rules, 2).parts["perceptual"].executed == 2 * 3 * one
